"""How many calls, bytes and cores a fleet of gateways takes, with relays and without.

    python examples/scale.py [--gateways 1000] [--entries 1000] [--bytes 200]
                             [--delay 10] [--relay-delay 1000] [--outage 3600]
                             [--costs FILE] [--svg FILE]

A window opens with an entry and lasts `--delay` ms, so a gateway makes
1 / (delay + 1 / entries) calls a second. Beside that formula the fleet is simulated:
entries arrive at random. A relay has one core, and uses half of it. `--costs` are
figures of `stress/fanin_costs.py`; measure them on a machine of yours. `--svg` draws
calls a second by the number of gateways.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COSTS = Path(__file__).parents[1] / "benchmarks" / "results" / "scale_nats.json"
LARGEST_CALL = 1_000  # messages in one call of a relay, by default
LARGEST_BYTES = 8 * 2**20  # likewise
BUSY = 0.5  # of a relay's core, so that it catches up after an outage
SEED = 1
MIB, GIB = 2**20, 2**30


def windows(entries: float, delay: float) -> float:
    """Calls a second of one sender that gets so many entries a second."""
    return 1 / (delay + 1 / entries)


def simulate(senders: int, entries: float, delay: float, seconds: float) -> float:
    """The same of several, from entries that arrive at random."""
    drawn = random.Random(SEED)
    calls = 0
    for _ in range(senders):
        now = drawn.uniform(0, delay + 1 / entries)  # they did not start together
        while (now := now + drawn.expovariate(entries) + delay) < seconds:
            calls += 1
    return calls / seconds


@dataclass(frozen=True)
class Fleet:
    """Gateways, and relays between them and one service; delays in seconds."""

    gateways: int
    entries: float  # a second, of each gateway
    delay: float
    relay_delay: float
    bytes: float  # of an entry
    costs: dict[str, dict[str, float]]  # by side, of a message and an entry, in µs

    @property
    def all_entries(self) -> float:
        """Entries a second."""
        return self.gateways * self.entries

    @property
    def messages(self) -> float:
        """Batches of the gateways a second."""
        return self.gateways * windows(self.entries, self.delay)

    @property
    def relays(self) -> int:
        """How many share the stream: two at least, where one is started anew."""
        return max(2, math.ceil(self.cores("relay") / BUSY))

    @property
    def relay_calls(self) -> float:
        """Calls a second of all relays."""
        each = self.messages / self.relays
        message = self.all_entries / self.messages * (self.bytes + 1)
        most = min(LARGEST_CALL, max(1, LARGEST_BYTES // message))
        return self.relays * max(windows(each, self.relay_delay), each / most)

    def cores(self, *sides: str) -> float:
        """Processors that some sides take, all day."""
        micros = 0.0
        for side in sides:
            micros += self.messages * self.costs[side]["message"]
            micros += self.all_entries * self.costs[side]["entry"]
        return micros / 1e6


def lines(given: argparse.Namespace) -> list[str]:
    """What the fleet takes, a line each."""
    fleet = fleet_of(given, given.gateways)
    engine, memory = given.figures["engine"], given.figures["memory"]
    entries = fleet.all_entries
    data = entries * given.bytes  # a second
    seen = simulate(fleet.gateways, fleet.entries, fleet.delay, given.seconds)
    cores = {
        "gateways": fleet.cores("gateway"),
        engine: fleet.cores("engine, in", "engine, out"),
        f"{fleet.relays} relays": fleet.cores("relay"),
    }

    def row(name: str, number: float, rest: str) -> str:
        return f"{name:24}{number:12,.{0 if number >= 100 else 1}f} {rest}"

    def of_each(calls: float) -> str:
        return f"/s, of {entries / calls:,.0f} entries"

    return [
        row("gateways", fleet.gateways, f"at {given.delay:g} ms"),
        row("entries", entries, f"/s, of {given.bytes:g} B"),
        row("calls without relays", fleet.messages, of_each(fleet.messages)),
        row("the same, simulated", seen, "/s"),
        row("messages to the engine", fleet.messages, f"/s, {data / 1e6:,.0f} MB/s"),
        row("calls with relays", fleet.relay_calls, of_each(fleet.relay_calls)),
        *(
            row(kind, count, f"cores, {count * 24:,.0f} core hours a day")
            for kind, count in cores.items()
        ),
        *(row(f"memory of a {kind}", n / MIB, "MiB") for kind, n in memory.items()),
        row("kept by each server", data * given.outage / GIB, "GiB, if no relay runs")
        + f" for {given.outage:g} s",
    ]


COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def draw(given: argparse.Namespace) -> str:
    """Calls a second by the number of gateways, as an SVG with logarithmic axes."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from drawing import Series, lines  # which a copy elsewhere lacks

    fleets = [fleet_of(given, count) for count in COUNTS]
    seen = [
        simulate(fleet.gateways, fleet.entries, fleet.delay, given.seconds)
        for fleet in fleets
    ]
    direct = [(fleet.gateways, fleet.messages) for fleet in fleets]
    through = [(fleet.gateways, fleet.relay_calls) for fleet in fleets]
    dots = list(zip(COUNTS, seen, strict=True))
    return lines(
        "Calls a second",
        (f"gateways at {given.delay:g} ms; dots: simulated", ""),
        [
            Series("straight", direct, ours=False, dots=dots),
            Series("relayed", through, ours=True, dots=()),
        ],
        log=True,
    )


def fleet_of(given: argparse.Namespace, gateways: int) -> Fleet:
    """The fleet of the options, with so many gateways."""
    delays = given.delay / 1e3, given.relay_delay / 1e3
    costs = given.figures["micros"]
    return Fleet(gateways, given.entries, *delays, given.bytes, costs)


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return number


def whole(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


def options(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Those of the command line, with the figures that are in the file of costs."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--gateways", type=whole, default=1_000, help="processes")
    add("--entries", type=positive, default=1_000.0, help="a second, of each gateway")
    add("--bytes", type=positive, default=200.0, help="of an entry")
    add("--delay", type=positive, default=10.0, help="ms_delay of the gateways")
    add("--relay-delay", type=positive, default=1_000.0, help="ms_delay of the relays")
    add("--outage", type=positive, default=3_600.0, help="seconds without relays")
    add("--costs", type=Path, default=COSTS, help="of stress/fanin_costs.py --json")
    add("--seconds", type=positive, default=2.0, help="that are simulated")
    add("--svg", type=Path, help="draw it there")
    found = parser.parse_args(given)
    try:
        found.figures = json.loads(found.costs.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"--costs {found.costs}: {error}: stress/fanin_costs.py makes it")
    return found


def main() -> None:
    found = options()
    print("\n".join(lines(found)))
    if found.svg is not None:
        found.svg.write_text(draw(found))


if __name__ == "__main__":
    main()
