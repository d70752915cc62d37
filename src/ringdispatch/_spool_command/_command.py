"""`python -m ringdispatch spool`: its options, and what it prints."""

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ._caller import Caller
from ._cat import print_entries
from ._files import GoneError, State, UnreadableError, UsageError, find, look_at_all
from ._purge import Wanted, remove
from ._replay import Outcome, Replay
from ._show import (
    Progress,
    as_json,
    complain,
    counted,
    make_console,
    print_table,
    say,
)

MAX_BATCH = 1000

DESCRIPTION = """\
Look after the directory that Bytes(spool=...) was given: what ended processes left in
it, and what could not be dispatched. DIRECTORY is that one, or one dispatcher's in it,
or a file. No command disturbs a process that lives."""
EPILOG = """\
example: python -m ringdispatch spool replay --to shop.audit:send /var/spool/shop
docs/durability.md says what the files are."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UsageError(f"{message}; --help lists the options")


def _count(words: str) -> int:
    if words.isascii() and words.isdigit() and len(words) < 10 and int(words) > 0:
        return int(words)
    raise argparse.ArgumentTypeError(f"{words!r}: must be an integer >= 1")


def _rate(words: str) -> float:
    try:
        if 0 < (rate := float(words)) < float("inf"):
            return rate
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{words!r}: must be a number of entries a second")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _age(words: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", words)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{words!r}: must be a time such as 90s, 30m, 12h or 7d"
        )
    return float(found[1]) * _UNITS[found[2]]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ringdispatch spool",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], words: str, more: str = ""
    ) -> Callable[..., object]:
        one = commands.add_parser(name, help=words, description=f"{words}. {more}")
        one.set_defaults(run=run)
        one.add_argument("directory", metavar="DIRECTORY")
        return one.add_argument

    add = command("ls", _ls, "List the files, and what is in each")
    add("--json", action="store_true", help="an object of JSON for each file")
    add = command(
        "cat",
        _cat,
        "Print the entries that are not dispatched",
        "One a line; those of a living process as they are at that moment.",
    )
    add("--json", action="store_true", help="an object of JSON for each entry, exactly")
    add = command(
        "replay",
        _replay,
        "Dispatch dead letters, and what ended processes left",
        "Ctrl-C ends it after the batch in flight; run again, it goes on there.",
    )
    add(
        "--to",
        required=True,
        metavar="package.module:function",
        help="the dispatch function or sink; batches are those of Bytes",
    )
    add("--rate", type=_rate, metavar="N", help="entries a second, at most")
    add(
        "--max-batch",
        type=_count,
        default=MAX_BATCH,
        metavar="N",
        help="entries in a batch that no process took before; others stay as they were "
        f"(default: {MAX_BATCH})",
    )
    add(
        "--keep-going",
        action="store_true",
        help="go on after a batch that failed (default: stop; it stays in either case)",
    )
    add("--bad", action="store_true", help="what is intact in .bad files, too")
    add = command(
        "purge",
        _purge,
        "Remove files that no process has",
        "It shows them, and asks.",
    )
    add("--dead", action="store_true", help="dead letters")
    add("--bad", action="store_true", help="what was kept aside as damaged")
    add("--orphans", action="store_true", help="what ended processes left")
    add(
        "--older-than",
        type=_age,
        default=0.0,
        metavar="TIME",
        help="only what was neither made nor written to for so long: 90s, 30m, 12h, 7d",
    )
    add("--yes", action="store_true", help="don't ask")
    return parser


# ---- ls, cat


def _ls(options: argparse.Namespace) -> int:
    states = list(look_at_all(find(options.directory)))
    if options.json:
        for state in states:
            say(as_json(state))
    elif states:
        print_table(states, make_console())
    else:
        say(f"{options.directory}: no files of a spool")
    return 0


def _cat(options: argparse.Namespace) -> int:
    wrong: list[str] = []
    for place in find(options.directory):
        before = len(wrong)
        try:
            if place.kind != "new":
                print_entries(place, wrong.append, exactly=options.json)
        except GoneError:
            continue
        except UnreadableError as error:
            wrong.append(str(error))
        for words in wrong[before:]:
            complain(f"{place.shown}: {words}")
    return 1 if wrong else 0


# ---- replay


def _replay(options: argparse.Namespace) -> int:
    places = find(options.directory)
    caller = Caller(options.to)
    outcome = Outcome()
    states = []
    for state in look_at_all(places):
        kind, shown = state.place.kind, state.place.shown
        if kind == "new" or (kind == "bad" and not options.bad):
            continue
        if state.owner == "alive" and kind == "spool":
            say(f"{shown}: skipped, a process has it")
        elif state.is_known:
            states.append(state)
        else:
            outcome.unread += 1
            complain(f"{shown}: skipped, {state.reason}")
    states.sort(key=_oldest_first)
    with Progress(sum(state.entries or 0 for state in states), make_console()) as shows:
        replay = Replay(
            caller,
            outcome,
            max_batch=options.max_batch,
            rate=options.rate,
            keep_going=options.keep_going,
            progress=shows,
        )
        asyncio.run(replay.run(states))
    say(_in_words(outcome))
    return outcome.status


def _oldest_first(state: State) -> tuple[str, bool, float]:
    """In the order of each dispatcher's entries: a dead letter's came before."""
    at = state.made_at or state.changed_at or 0.0
    return state.place.name, state.place.kind != "dead", at


def _in_words(outcome: Outcome) -> str:
    words = (
        f"replayed {counted(outcome.entries, 'entry')} in "
        f"{counted(outcome.batches, 'batch')}"
    )
    if outcome.failed:
        stay = "stays" if len(outcome.failed) == 1 else "stay"
        words += f"; {counted(len(outcome.failed), 'batch')} failed and {stay}"
    if outcome.stopped:
        words += f"; {outcome.stopped}"
    return words


# ---- purge


def _purge(options: argparse.Namespace) -> int:
    wanted = Wanted(options.dead, options.bad, options.orphans, options.older_than)
    if not (options.dead or options.bad or options.orphans):
        raise UsageError("name what to remove: --dead, --bad or --orphans")
    status, removed = 0, 0
    states = []
    for state in filter(wanted.has, look_at_all(find(options.directory))):
        if state.owner == "ended":
            states.append(state)
        elif state.owner == "alive":
            say(f"{state.place.shown}: skipped, a process has it")
        else:
            complain(f"{state.place.shown}: skipped, {state.reason}")
            status = 1
    if not states:
        say("nothing to remove")
        return status
    print_table(states, make_console())
    files = counted(len(states), "file")
    entries = counted(sum(state.entries or 0 for state in states), "entry")
    if not options.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                f"{files} would be removed, and no terminal is there to ask: add --yes "
                "to remove without being asked"
            )
        sys.stdout.write(f"Remove {files}, with {entries} not dispatched? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            say("nothing was removed")
            return status
    for state in states:
        try:
            remove(state)
            removed += 1
        except GoneError:
            say(f"{state.place.shown}: skipped, it is gone")
        except UnreadableError as error:
            complain(f"{state.place.shown}: stays, {error}")
            status = 1
    say(f"removed {counted(removed, 'file')}")
    return status


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except UsageError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What read our lines has ended; nor can the exit's own flush be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
