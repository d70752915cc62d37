"""A user's service for the tuner, and measurements that need no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._tune import _command
from ringdispatch._tune._model import predict
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._results import Measured, Setting

SERVICE = """\
import asyncio

number = 7

async def send(batch):
    await asyncio.sleep(0.001)

async def fails(batch):
    raise ConnectionError("refused:\\nno route")

async def quits(batch):
    raise SystemExit(0)

def entry():
    return {"status": 200}

def no_entry():
    raise KeyError("x")

def exits():
    raise SystemExit(0)

def ends():
    raise StopIteration

def generates():
    yield 1

async def awaits():
    return 1
"""


def write_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder with a user's service, with no module of it imported."""
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "dies.py").write_text("import os; os._exit(3)\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "words.json").write_text("hello {")
    (tmp_path / "long.json").write_text(json.dumps(["x" * 100_000]))
    (tmp_path / "samples.json").write_text('[{"a": 1}, {"a": 2, "b": "text"}]')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("service", "broken", "exits"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def as_predicted(setting: Setting, **order: Any) -> Measured:
    """What stands in for a measurement: the model, a little off."""
    order["on_progress"](0.5)
    assert setting.rate is not None
    said = predict(setting, calls=Calls.constant(5), entry_bytes=300)
    return Measured(
        rate=setting.rate,
        held=True,
        batches=40,
        entries_per_batch=1.02 * said.entries_per_batch,
        calls_per_second=0.98 * said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        age_max=said.age_p99,
        stall_max=1.0,
        request_p99=2.0,
        cpu_seconds_per_million=1.0,
        sink_mean=5.0,
        peak_pending=round(said.peak_pending),
        rss_growth=round(said.memory),
        dropped=0,
    )


Orders = list[tuple[Setting, dict[str, Any]]]


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> Orders:
    """Have the tuner measure nothing; returns what it was to measure."""
    seen: Orders = []

    def measure(setting: Setting, **order: Any) -> Measured:
        seen.append((setting, order))
        return as_predicted(setting, **order)

    monkeypatch.setattr(_command, "measure_apart", measure)
    return seen


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = _command.main(["tune", *arguments])
    out, err = capsys.readouterr()
    return status, out, err
