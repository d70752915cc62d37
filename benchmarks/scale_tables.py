"""The tables and the picture of what a fleet of gateways takes, past one machine."""

import argparse
import json
import sys
from pathlib import Path

from figures import Table
from runs import RESULTS

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import scale

ENGINES = {"scale_nats.json": "three of NATS, R3", "scale_redis.json": "one of Redis"}
DELAYS = (10.0, 100.0, 1_000.0)  # ms


def options_of(file: str, *given: str) -> argparse.Namespace:
    """The options of the example, with what was measured of an engine."""
    return scale.options(["--costs", str(RESULTS / file), *given])


def costs() -> list[str]:
    """Microseconds of a processor, by engine and side."""
    lines = []
    for file, engine in ENGINES.items():
        found = json.loads((RESULTS / file).read_text())["micros"]
        cells = [
            f"{side['message']:,.0f} + {side['entry']:.2f}" for side in found.values()
        ]
        lines.append([engine, *cells])
    heads = ["servers", "gateway", "the servers, in", "relay", "the servers, out"]
    return Table(heads, lines).markdown()


def fleets() -> list[str]:
    """What a thousand gateways take, by engine and delay."""
    lines = []
    for file, engine in ENGINES.items():
        for delay in DELAYS:
            given = options_of(file, "--delay", str(delay))
            fleet = scale.fleet_of(given, given.gateways)
            lines.append(
                [
                    engine,
                    f"{delay:,g} ms",
                    f"{fleet.messages:,.0f}",
                    f"{fleet.all_entries / fleet.messages:,.0f}",
                    f"{fleet.cores('gateway'):,.0f}",
                    f"{fleet.cores('engine, in', 'engine, out'):,.0f}",
                    f"{fleet.cores('relay'):,.0f}",
                    f"{fleet.relays}",
                    f"{fleet.relay_calls:,.0f}",
                ]
            )
    heads = [
        "servers",
        "`ms_delay` of the gateways",
        "messages/s",
        "entries in each",
        "cores: gateways",
        "servers",
        "relays",
        "relays of half a core",
        "calls/s",
    ]
    return Table(heads, lines).markdown()


def picture() -> str:
    """Calls a second by the number of gateways."""
    return str(scale.draw(options_of("scale_nats.json")))
