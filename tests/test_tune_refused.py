"""What the tuner's command refuses, each in one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the extra [tune] is not installed")

from ringdispatch import __main__
from subprocesses import run_snippet
from tuning import Orders, measure_nothing, run, write_service


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_service(tmp_path, monkeypatch)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Orders:
    return measure_nothing(monkeypatch)


WRONG: list[tuple[str, str]] = [
    ("", "no dispatch function: name one as package.module:function"),
    ("service:send --delays 10,x", "'10,x': must be numbers of milliseconds > 0"),
    ("service:send --delays nan", "must be numbers of milliseconds > 0"),
    ("service:send --delays=-5", "must be numbers of milliseconds > 0"),
    ("service:send --rate 0", "--rate: '0': must be a number of entries a second > 0"),
    ("service:send --rate many", "--rate: 'many': must be a number"),
    ("service:send --seconds inf", "--seconds: 'inf': must be a number of seconds"),
    (
        "service:send --rate 1.5",
        "--rate 1.5 and --seconds 5 make fewer than 30 entries",
    ),
    ("service:send --rate 1.5", "too few to measure: give it --seconds 20"),
    ("service:send --rate 1 --rate 9e3 --seconds .3", "give it --seconds 30"),
    ("service:send --layout rows", "--layout: invalid choice: 'rows'"),
    ("service:send --capacity 0", "--capacity: '0': must be an integer from 1"),
    ("service:send --capacity 1e3", "--capacity: '1e3': must be an integer"),
    ("service:send --capacity 99999999999999", "must be an integer from 1 to"),
    ("service:send --dry=-1", "--dry: '-1': must be a number of milliseconds >= 0"),
    ("service:send --dry x", "--dry: 'x': must be a number of milliseconds >= 0"),
    ("service:send --seed x", "--seed: invalid int value: 'x'"),
    ("service:send --budget-age=-5", "--budget-age: '-5': must be a number"),
    ("service:send --budget-memory 0", "--budget-memory: '0': must be a number"),
    ("service:send --budget-calls x", "--budget-calls: 'x': must be a number"),
    ("service:send --budget-request 0", "--budget-request: '0': must be a number"),
    ("service:send --budget-request inf", "must be a number of milliseconds > 0"),
    ("service:send --minutes 0", "--minutes: '0': must be a number of minutes > 0"),
    (
        "service:send --minutes .1",
        "--minutes 0.1: is too short to learn how long calls",
    ),
    (
        "service:send --minutes .1",
        "give it --minutes 0.3, or shorter runs by --seconds",
    ),
    ("service:send --minutes .5 --seconds 30", "give it --minutes 1."),
    (
        "service:send --budget-age 10 --delays 10,100",
        "--budget-age 10 and --delays contradict: an entry may wait the whole delay",
    ),
    (
        "service:send --budget-age 10.3 --delays 10",
        "try --delays 5.15, or leave it out",
    ),
    (
        "service:send --budget-age 5 --delays 10,100",
        "--budget-age 5 and --delays contradict: an entry may wait the whole delay",
    ),
    (
        "service:send --budget-age 20 --budget-calls 5 --rate 10000",
        "--budget-age 20 and --budget-calls 5 contradict",
    ),
    (
        "service:send --budget-memory 0.2",
        "--budget-memory 0.2 and --capacity 65536 contradict",
    ),
    (
        "service:send --budget-memory 0.6 --capacity 65537",
        "a ring of objects takes 1 MiB by itself",
    ),
    (
        "service:send --budget-memory 16 --layout bytes",
        "a ring of bytes takes 16.2 MiB by itself",
    ),
    (
        "service:send --rate 1e9 --layout bytes --entry long.json --capacity 100000000",
        "--capacity 100000000: a ring of bytes takes 19,0",
    ),
    ("service:send --entry missing.json", "--entry missing.json: can't be read"),
    ("service:send --entry empty.json", "--entry empty.json: has no samples"),
    ("service:send --entry none.json", "--entry none.json: has no samples"),
    ("service:send --entry words.json", "--entry words.json: is neither JSON"),
    ("service:send --entry .", "--entry .: can't be read"),
    ("service:send --entry service:nothing", "service has no 'nothing'"),
    ("service:send --entry service:no_entry", "making an entry raised KeyError: 'x'"),
    ("service:send --entry deep.json", "--entry deep.json: is neither JSON"),
    ("service:send --entry service:exits", "making an entry raised SystemExit: 0"),
    ("service:send --entry exits:entry", "importing exits raised SystemExit: 0"),
    ("service:send --entry service:ends", "making an entry raised StopIteration"),
    ("service:send --entry service:generates", "must be a plain function"),
    ("service:send --entry service:awaits", "must be a plain function"),
    ("service:send --layout records --entry samples.json", "it takes rows of numbers"),
    (
        "service:send --report same.x --json ./same.x",
        "--report same.x and --json same.x: must be two files",
    ),
    ("service:send --report .", ".: can't be written"),
    ("service:send --json service.py/x.json", "service.py/x.json: can't be written"),
    ("service:send --frobnicate", "unrecognized arguments: --frobnicate"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_bad_input_is_one_line_and_status_2(
    arguments: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    orders: Orders,
) -> None:
    status, out, err = run(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("ringdispatch tune: ")
    assert err.count("\n") == 1
    assert words in err
    assert not orders


def test_a_memory_budget_is_held_against_what_the_layout_sets_aside(
    capsys: pytest.CaptureFixture[str], orders: Orders
) -> None:
    pytest.importorskip("numpy")
    Path("rows.json").write_text("[[1]]")
    words = "--dry 1 --delays 10 --layout records --entry rows.json --budget-memory"
    status, _, err = run(capsys, *words.split(), "0.9")
    assert status == 2
    assert "a ring of records takes 1 MiB by itself" in err
    status, _, err = run(capsys, *words.split(), "50")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            "no_such_service:send",
            r"importing no_such_service raised ModuleNotFound.*; run from the folder",
        ),
        (
            "broken:send",
            r"No module named 'no_such_mod.*; check it with python -c 'imp",
        ),
        ("exits:send", "importing exits raised SystemExit: 0; put what it runs under"),
        ("dies:send", "importing dies ended the process: exit status 3; check it"),
        ("service:sent", "service has no 'sent'; it has send"),
        ("service:missing", "service has no 'missing'; it has send, fails, quits"),
        ("service:number", "is 7, which is not callable; name a function of service"),
        ("service:generates", "must take "),
        ("empty:send", "empty has no 'send'; define it there"),
        ("service", "must be given as package.module:name"),
    ],
)
def test_a_dispatch_function_that_is_not_there_is_an_error_before_all_else(
    target: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    orders: Orders,
) -> None:
    status, out, err = run(capsys, target)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(words, err)
    assert target in err
    assert not orders


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("quits", "exit status 0: SystemExit: 0; check that the dispatch function"),
        ("fails", "raised ConnectionError: refused: no route in every call"),
    ],
)
def test_a_dispatch_function_that_always_fails_is_one_line_and_status_2(
    target: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(
        capsys, f"service:{target}", "--seconds", "0.1", "--delays", "10"
    )
    assert status == 2
    assert err.count("\n") == 1
    assert words in err
    assert not Path(".benchmarks/tune.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_full_disk_is_named(
    option: str,
    capsys: pytest.CaptureFixture[str],
    orders: Orders,
) -> None:
    status, _, err = run(capsys, "--dry", "5", option, "/dev/full")
    assert status == 2
    assert "/dev/full: can't be written: No space left on device" in err
    assert err.count("\n") == 1
    assert orders


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ("[123456789012345678901234567890]", ""),
        (r'["\ud800"]', ""),
        ("[NaN]", ""),
        ("[[1, 99999999999999999999]]", ""),
        ("[[1, 99999999999999999999]]", "--layout records"),
        ("[123456789012345678901234567890]", "--layout bytes"),
    ],
)
def test_samples_that_not_all_can_hold_are_measured_or_refused(
    samples: str, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "records" in options:
        pytest.importorskip("numpy")
    Path("odd.json").write_text(samples)
    arguments = f"--dry 1 --entry odd.json --seconds .1 --delays 10 {options}"
    status, _, err = run(capsys, *arguments.split())
    if options and status:
        assert status == 2
        assert "raised" in err
        assert err.count("\n") == 1
    else:
        assert (status, err) == (0, "")


@pytest.mark.parametrize("name", ["jinja2", "rich"])
def test_without_its_packages_it_says_what_to_install(name: str) -> None:
    outcome = run_snippet(
        f"""
        sys.modules["{name}"] = None
        sys.argv[1:] = ["tune"]
        from ringdispatch.__main__ import main
        sys.exit(main())
        """,
        code=2,
        stderr=rf"ringdispatch: the tuner needs {name}: pip install '.*\[tune\]'",
    )
    assert outcome.lines == []


def test_other_missing_modules_are_not_taken_for_rich(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "ringdispatch._tune._command")
    monkeypatch.setitem(sys.modules, "ringdispatch._tune._recommend", None)
    monkeypatch.setattr(sys, "argv", ["ringdispatch", "tune"])
    with pytest.raises(ModuleNotFoundError, match="_recommend"):
        __main__.main()
