"""The check of the replay: what it compares, and that it fails beyond a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import replay_check
from ringdispatch._tune._recording import Ages, Calls, Recorded
from ringdispatch._tune._replay import Replayed, replay
from ringdispatch._tune._results import Measured, Setting


def as_replayed(said: Replayed) -> Measured:
    """A measurement that is just as predicted."""
    return Measured(
        rate=1_000.0,
        held=True,
        batches=100,
        entries_per_batch=said.entries_per_batch,
        calls_per_second=said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        age_max=said.age_p99,
        stall_max=0.0,
        request_p99=0.0,
        cpu_seconds_per_million=0.0,
        sink_mean=5.0,
        peak_pending=round(said.peak_pending),
        rss_growth=0,
        dropped=0,
        recorded=Recorded(Calls.constant(5.0), Ages.of([])),
    )


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Nothing is measured; how many times as long cycles are as predicted, in turn."""
    left: list[float] = []

    def measured(function: str, setting: Setting, seed: int) -> Measured:
        seen = as_replayed(replay(setting, Calls.constant(5.0)))
        factor = left.pop(0) if left else 1.0
        return replace(seen, calls_per_second=seen.calls_per_second / factor)

    monkeypatch.setattr(replay_check, "measured", measured)
    monkeypatch.setattr(replay_check, "QUICK", ((1_000.0,), (50.0,), (1, 2)))
    # Of this process, main() is to change nothing.
    monkeypatch.setattr("os.sched_setscheduler", lambda *_: None, raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    arguments = ["replay_check.py", "--check", "--quick", "--function", "growing"]
    monkeypatch.setattr("sys.argv", arguments)
    yield left
    assert left == []


def test_what_is_as_predicted_is_met(
    capsys: pytest.CaptureFixture[str], factors: list[float]
) -> None:
    assert replay_check.main() == 0
    out = capsys.readouterr().out
    assert out.count("growing") == 2
    assert "calls/s: 2 of 2 within 10%" in out
    assert "tried" not in out


def test_a_disturbed_run_gets_another_try(
    capsys: pytest.CaptureFixture[str], factors: list[float]
) -> None:
    factors += [1.0, 1.3, 1.0]  # the first is of the run that is recorded
    assert replay_check.main() == 0
    assert capsys.readouterr().out.count("tried 2 times") == 1


def test_a_figure_beyond_its_limit_fails(
    capsys: pytest.CaptureFixture[str], factors: list[float]
) -> None:
    factors += [1.0, 1.0, 1.2, 1.2, 1.2]
    assert replay_check.main() == 1
    assert "calls/s: 1 of 2 within 10%" in capsys.readouterr().out


def test_all_settings_are_below_saturation_and_only_slow_calls_drop() -> None:
    for function in replay_check.FUNCTIONS:
        chosen = [*replay_check.settings(function, quick=False)]
        assert len(set(chosen)) == 45
        small = {one.capacity for one in chosen} != {Setting(1, 1, None).capacity}
        assert small == (function == "tail")
