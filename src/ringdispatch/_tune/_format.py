"""Numbers as the report writes them."""

import math

MINUS = "\u2212"
TIMES = "\u00d7"
NONE = "\u2013"  # where there is no figure
KIB = 1024


def number(value: float | None) -> str:
    """A count in full, else three figures or all those before the point."""
    if value is None or not math.isfinite(value):
        return NONE
    digits = 0
    if value and not isinstance(value, int):
        digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}".replace("-", MINUS)


def plain(value: float) -> str:
    """A number that a person chose: with no more figures than it needs."""
    return f"{value:,.6g}".replace("-", MINUS)


def short(value: float) -> str:
    """The same for a plot, where there is little room: 50k."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10 ** max(power, 4):
            return f"{value / 10**power:.4g}{letter}".replace("-", MINUS)
    return plain(value)


def size(value: float | None) -> str:
    """Bytes in the unit that reads best."""
    if value is None:
        return NONE
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= KIB**power:
            return f"{number(value / KIB**power)} {unit}"
    return f"{number(value)} B"


def share(value: float) -> str:
    """A relative error: +3.1%."""
    rounded = round(100 * value, 1) or 0.0  # no minus before a zero
    return f"{rounded:+.1f}%".replace("-", MINUS)
