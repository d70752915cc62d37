"""examples/scale.py: its formula, its simulation, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# A relay takes 1 µs a message, and nothing for its entries.
COSTS = {
    "engine": "3 x nats",
    "micros": {
        side: {"message": 1.0, "entry": 0.0}
        for side in ("gateway", "engine, in", "engine, out", "relay")
    },
    "memory": {"relay": 2**20},
}


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "scale", raising=False)
    import scale  # type: ignore[import-not-found]

    module: ModuleType = scale
    return module


@pytest.fixture
def costs(tmp_path: Path) -> str:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(COSTS))
    return str(path)


def fleet(scale: ModuleType, costs: str, *given: str) -> Any:
    options = scale.options(["--costs", costs, *given])
    return scale.fleet_of(options, options.gateways)


def printed(scale: ModuleType, *given: str) -> dict[str, float]:
    """The number of each line, by what it is of."""
    lines = scale.lines(scale.options(given))
    return {line[:24].strip(): float(line[24:36].replace(",", "")) for line in lines}


def test_the_default_has_the_numbers_of_the_formula(scale: ModuleType) -> None:
    found = printed(scale)
    assert found["entries"] == 1_000_000
    calls = 1_000 / (0.010 + 0.001)
    for name in ("calls without relays", "messages to the engine"):
        assert found[name] == pytest.approx(calls, abs=0.5)
    assert found["the same, simulated"] == pytest.approx(calls, rel=0.02)
    assert found["kept by each server"] == pytest.approx(200e6 * 3_600 / 2**30, abs=0.5)


@pytest.mark.parametrize(
    ("entries", "delay"), [(1_000.0, 0.01), (10.0, 0.1), (5.0, 0.001), (100.0, 1.0)]
)
def test_the_simulation_agrees_with_the_formula(
    scale: ModuleType, entries: float, delay: float
) -> None:
    calls = 100 * scale.windows(entries, delay)
    seconds = 50_000 / calls
    simulated = scale.simulate(100, entries, delay, seconds)
    assert simulated == pytest.approx(calls, rel=0.02)


@pytest.mark.parametrize(
    ("size", "messages"),
    [
        ("200", 1_000),  # bounded by their number
        ("9999", 76),  # 8 MiB of 110,000 B each
        ("1e9", 1),  # larger than a call may be
    ],
)
def test_a_call_of_a_relay_has_as_many_messages_and_bytes_as_it_may_have(
    scale: ModuleType, costs: str, size: str, messages: int
) -> None:
    many = fleet(scale, costs, "--bytes", size)
    assert many.relays == 2
    assert many.relay_calls == pytest.approx(many.messages / messages)


def test_a_relay_with_little_to_do_calls_once_a_window(
    scale: ModuleType, costs: str
) -> None:
    few = fleet(scale, costs, "--gateways", "1", "--entries", "1", "--delay", "1000")
    # 0.5 messages a second, so 0.25 a relay: one every 4 s, and the window's second.
    assert few.relay_calls == pytest.approx(2 / (1 + 4))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--costs", "nope"), "--costs nope: "),
        (("--costs", "."), "--costs .: "),
        (("--entries", "0"), "argument --entries: 0: must be a number above 0"),
        (("--entries", "x"), "argument --entries: "),
        (("--entries", "nan"), "argument --entries: nan: must be a number above 0"),
        (("--delay", "-1"), "argument --delay: -1: must be a number above 0"),
        (("--gateways", "x"), "argument --gateways: x: must be a whole number above 0"),
        (("--gateways", "0"), "argument --gateways: 0: must be a whole number above 0"),
    ],
)
def test_an_option_that_is_wrong_is_told_in_a_line(
    scale: ModuleType,
    given: tuple[str, ...],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        scale.options(given)
    assert caught.value.code == 2
    usage, told = capsys.readouterr().err.split("error: ")
    assert usage.startswith("usage: ")
    assert told.startswith(why)
    assert told.count("\n") == 1


def test_a_drawing_has_a_dot_for_each_simulated_fleet(
    scale: ModuleType, costs: str
) -> None:
    drawn = scale.draw(
        scale.options(["--costs", costs, "--delay", "50", "--seconds", "0.2"])
    )
    assert drawn.count("<circle") == len(scale.COUNTS)
    assert "gateways at 50 ms" in drawn
