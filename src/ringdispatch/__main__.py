"""`python -m ringdispatch`: see collector.md, scale.md, durability.md and tuning.md."""

import signal
import sys
from types import FrameType

USAGE = """\
usage: python -m ringdispatch COMMAND ...

  collector  show what a dispatch function posts, on a live page
  relay      hand what gateways sent to an engine to one function
  spool      show, replay or remove what ended processes left
  tune       recommend the delay for a dispatch function

COMMAND --help lists the options of each.
"""


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave as by an exception, so that what was started is ended."""
    del frame
    sys.exit(128 + number)


def _leave_cleanly() -> None:
    """Leave so by the signals that would end the process at once."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)


def _tune() -> int:
    """Run the tuner; its extras may not be installed."""
    try:
        from ._tune._command import main as tune  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"jinja2", "rich"}:
            raise
        sys.stderr.write(
            f"ringdispatch: the tuner needs {missing}: "
            "pip install 'ringdispatch[tune]'\n"
        )
        return 2
    _leave_cleanly()
    return tune(sys.argv[1:])


def _collect() -> int:
    """Run the collector."""
    from ._collector._command import main as collect  # noqa: PLC0415

    _leave_cleanly()
    return collect(sys.argv[2:])


def _relay() -> int:
    """Run the relay."""
    from .relay._command import main as relay  # noqa: PLC0415

    return relay(sys.argv[2:])


def _spool() -> int:
    """Look after a spool, where the system has any."""
    from ._spool_file import SUPPORTED  # noqa: PLC0415

    if not SUPPORTED:
        sys.stderr.write("ringdispatch spool: only Linux has spools so far\n")
        return 2
    from ._spool_command._command import main as spool  # noqa: PLC0415

    _leave_cleanly()
    return spool(sys.argv[2:])


def main() -> int:
    """Run the command that is named."""
    command = " ".join(sys.argv[1:2])
    if command in {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return 0
    commands = {
        "collector": _collect,
        "relay": _relay,
        "spool": _spool,
        "tune": _tune,
    }
    if command not in commands:
        sys.stderr.write(
            f"ringdispatch: {command!r} is no command: name collector, relay, spool "
            "or tune\n"
        )
        return 2
    return commands[command]()


if __name__ == "__main__":
    sys.exit(main())
