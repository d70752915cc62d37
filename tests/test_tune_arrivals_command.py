"""The tuner's command with recorded arrivals: every bad file in one line, and a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra [tune] is not installed")

from ringdispatch._tune import _command
from ringdispatch._tune._results import Measured, Results, Setting


def lines(values: Iterable[object]) -> str:
    return "".join(f"{value}\n" for value in values)


BAD_FILES: dict[str, str | bytes] = {
    "empty.txt": "",
    "blank.txt": "\n \n",
    "one.txt": "5\n",
    "same.txt": "5\n" * 50,
    "few.txt": lines(range(20)),
    "unsorted.txt": "1\n3\n2\n",
    "words.txt": "soon\n",
    "later.txt": "1\n2\nlater\n",
    "dates.txt": "2025-06-15T10:00:00\n17\n",
    "nan.txt": "1\n2\nnan\n",
    "infinite.txt": "1\ninf\n",
    "negative.txt": "-5\n1\n",
    "zipped.gz": b"\x1f\x8b\x08\x00\xc5\xff\xfe\x00\x03",
    "zeros.bin": bytes(64),
    "headless.csv": "1.5,GET,200\n2.5,GET,200\n",
    "log.csv": "time,path,status\n1,/,200\n",
    "short.csv": "path,time\n/,1\n/\n",
    "gap.csv": "path,time\n/,1\n/,\n",
    "log.jsonl": '{"time": 1, "path": "/"}\n{"path": "/"}\n',
    "cut.jsonl": '{"time": 1}\n{"time": \n',
    "mixed.jsonl": '{"time": 1}\n[2]\n',
    "null.jsonl": '{"time": 1}\n{"time": null}\n',
    "true.jsonl": '{"time": true}\n',
    "fast.txt": lines(one / 1e9 for one in range(1_000)),
    "array.json": "[1, 2, 3]\n",
    "good.txt": lines(one / 100 for one in range(100)),
}
BAD: list[tuple[str, str]] = [
    ("empty.txt", "--arrivals empty.txt: has no times: give one a line"),
    ("blank.txt", "--arrivals blank.txt: has no times"),
    ("one.txt", "--arrivals one.txt: has no two times, only 5: give one for each"),
    ("same.txt", "--arrivals same.txt: has no two times, only 5"),
    ("few.txt --seconds 30", "20 arrivals in 19 s are too few to measure, which takes"),
    ("few.txt --seconds 30", "which takes 30: record more"),
    ("array.json", "array.json: line 1: is a JSON array: give one time or object a"),
    ("good.txt --seconds .1", "to measure, which takes 30: give it more --seconds or"),
    ("unsorted.txt", "unsorted.txt: line 3: '2' is earlier than the time before: sort"),
    ("unsorted.txt", "or give it --sort"),
    ("words.txt", "words.txt: line 1: 'soon' must be a number >= 0, or an ISO 8601"),
    ("later.txt", "later.txt: line 3: 'later' must be a number >= 0, as the first"),
    ("dates.txt", "dates.txt: line 2: '17' must be a number >= 0, or an ISO 8601 time"),
    ("nan.txt", "nan.txt: line 3: 'nan' must be a number >= 0"),
    ("infinite.txt", "infinite.txt: line 2: 'inf' must be a number >= 0"),
    ("negative.txt", "negative.txt: line 1: '-5' must be a number >= 0"),
    ("zipped.gz", "zipped.gz: is not text; unpack it"),
    ("zeros.bin", "zeros.bin: is not text; unpack it"),
    ("missing.txt", "--arrivals missing.txt: can't be read: No such file"),
    (".", "--arrivals .: can't be read: Is a directory"),
    ("headless.csv --column time", "has no column 'time': its first line must name"),
    ("headless.csv --column time", "must name the columns; it has: 1.5, GET, 200"),
    ("headless.csv", "line 1: has several columns: name one with --column: 1.5, GET"),
    ("log.csv", "line 1: has several columns: name one with --column: time, path"),
    ("log.csv --column at", "has no column 'at': name one of its columns: time, path"),
    ("short.csv --column time", "line 3: has 1 columns, and 'time' is number 2"),
    ("gap.csv --column time", "gap.csv: line 3: '' must be a number >= 0"),
    ("log.jsonl", "line 1: has several columns: name one with --column: time, path"),
    ("log.jsonl --column at", "line 1: has no 'at': name one with --column: time"),
    ("log.jsonl --column time", "line 2: has no 'time': name one with --column: path"),
    ("cut.jsonl --column time", "cut.jsonl: line 2: is no JSON object"),
    ("mixed.jsonl --column time", "line 2: is [2]: must be a JSON object"),
    ("null.jsonl --column time", "null.jsonl: line 2: None must be a number >= 0"),
    ("true.jsonl --column time", "true.jsonl: line 1: True must be a number >= 0"),
    ("fast.txt", "1,000 arrivals in 9.99e-07 s are too fast for any machine: check"),
    ("fast.txt", "taken for seconds by their span (--unit sets another)), or try"),
    ("good.txt --speed 1e9", "are too fast for any machine"),
    ("good.txt --speed 0", "--speed: '0': must be a number of times > 0"),
    ("good.txt --speed nan", "--speed: 'nan': must be a number of times > 0"),
    ("good.txt --unit h", "--unit: invalid choice: 'h' (choose from"),
    ("good.txt --rate 5", "--arrivals good.txt and --rate 5 contradict: give one"),
    ("good.txt --budget-age 0.5", "--budget-age 0.5: must be 1 ms or more"),
    ("good.txt --budget-age 0", "--budget-age: '0': must be a number of milliseconds"),
    ("good.txt --budget-calls 0", "--budget-calls: '0': must be a number of calls"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in BAD_FILES.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = _command.main(["tune", "--dry", "1", "--delays", "10", *words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_arrivals_are_one_line_and_status_2(
    arguments: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "--arrivals", *arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("ringdispatch tune: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--column time", "--column time: is of recorded arrivals"),
        ("--unit ms", "--unit ms: is of recorded arrivals"),
        ("--speed 2", "--speed 2.0: is of recorded arrivals"),
        ("--sort", "--sort: is of recorded arrivals: name their file with --arrivals"),
    ],
)
def test_options_of_recorded_arrivals_need_them(
    words: str, named: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *words.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_a_column_is_played_and_drawn(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (f'"{i}",{1.75e9 + i / 20:.3f},/' for i in range(100))
    Path("log.csv").write_text(lines(["id,time,path", *rows]))
    words = "--arrivals log.csv --column time --seconds .2 --speed 10 --budget-age 99"
    status, out, err = run(capsys, *words.split())
    assert (status, err) == (0, "")
    assert "log.csv, column time: 100 times in 4.95 s, taken for seconds by" in out
    assert "the busiest 0.2 s are played" in out
    assert out.index("the busiest") < out.index("run 1: 10 ms at 2")
    assert "Set ms_delay=10" in out
    results = Results.read(Path(".benchmarks/tune.json"))
    assert "log.csv, column time" in results.machine["arrivals"]
    cell, *_ = results.cells  # on a busy machine it tries more
    assert cell.predicted is not None
    assert 0 < cell.predicted.entries_per_batch < 41
    assert sum(one.rate for one in cell.measured.moments) > 0
    page = Path(".benchmarks/tune.html").read_text()
    assert "Arrivals and age over time" in page
    assert "--budget-age 99" in page


def test_arrivals_that_the_producer_does_not_hold_are_an_error(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(setting: Setting, **order: Any) -> Measured:
        recorded = array("d", order["arrivals"].read_bytes())
        assert len(recorded) == 100
        assert setting.rate is not None
        figures = dict.fromkeys(Measured.__slots__, 0.0)
        figures |= {"rate": setting.rate / 2, "held": False}
        return Measured(**figures)  # type: ignore[arg-type]

    monkeypatch.setattr(_command, "measure_apart", measure)
    status, _, err = run(capsys, "--arrivals", "good.txt", "--speed", "20")
    assert (status, err.count("\n")) == (2, 1)
    assert "--arrivals good.txt, 2,020.2/s: the producer did not hold it" in err
    assert "it reached 1,010 entries/s" in err
    assert "try --speed 8" in err
