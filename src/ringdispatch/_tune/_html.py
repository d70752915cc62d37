"""Markup by small steps: whatever is not `Html` already is text, and gets escaped."""

import math
from collections.abc import Iterable, Sequence
from html import escape

VOID = frozenset({"br", "col", "meta"})
NARROW = "\u202f"  # the space between thousands
MINUS = "\u2212"
TIMES = "\u00d7"
NONE = "\u2013"  # where there is no figure
KIB = 1024


class Html(str):
    """Markup that is finished; everything else is text."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """An element of HTML or SVG.

    Args:
        name: Its tag.
        *content: Its children, one after the other; what is not Html is escaped.
        **attributes: `class_` becomes `class`, `stroke_width` `stroke-width`; those
            that are None are left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """One after the other, escaped where they are text."""
    return Html(
        "".join(part if isinstance(part, Html) else escape(str(part)) for part in parts)
    )


def number(value: float | None) -> str:
    """A count in full, else three figures or all those before the point."""
    if value is None or not math.isfinite(value):
        return NONE
    digits = 0
    if value and not isinstance(value, int):
        digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}".replace(",", NARROW).replace("-", MINUS)


def plain(value: float) -> str:
    """A number that somebody chose: as few figures as it takes."""
    return f"{value:,.6g}".replace(",", NARROW).replace("-", MINUS)


def short(value: float) -> str:
    """The same in a plot, where there is little room: 50 k."""
    for power, letter in ((9, "G"), (6, "M"), (4, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10 ** (power // 3 * 3):.4g}{NARROW}{letter}"
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
    """A relative error: +3.1 %."""
    rounded = round(100 * value, 1) or 0.0  # no minus before a zero
    return f"{rounded:+.1f} %".replace("-", MINUS)


def table(
    heads: Sequence[object],
    groups: Iterable[Sequence[Sequence[object]]],
    *,
    above: list[tuple[str, int]] | None = None,
    words: int = 1,
    caption: str | None = None,
) -> Html:
    """A table in a box of its own, which scrolls where the table is too wide.

    Args:
        heads: Of the columns.
        groups: Of rows, set apart by a line; a row of one cell heads the others.
        above: A row of heads over several columns each: the text, how many.
        words: So many columns on the left are words, the others figures.
        caption: Over it.
    """
    head = tag("tr", *(tag("th", one, scope="col") for one in heads))
    if above:
        spans = (
            tag("th", text, colspan=columns, scope="colgroup" if text else None)
            for text, columns in above
        )
        head = join([tag("tr", *spans, class_="above"), head])
    bodies = [
        tag("tbody", *(_row(cells, words) for cells in rows)) for rows in groups if rows
    ]
    captions = [tag("caption", caption)] if caption else []
    whole = tag("table", *captions, tag("thead", head), *bodies, class_=f"words{words}")
    return tag(
        "div", whole, class_="box", tabindex=0, role="region", aria_label=caption
    )


def _row(cells: Sequence[object], words: int) -> Html:
    first, *others = cells
    if not others:
        inner = tag("th", tag("span", first), colspan=99, scope="rowgroup")
        return tag("tr", inner, class_="heading")
    return tag(
        "tr",
        tag("th", first, scope="row"),
        *(
            tag("td", one, class_="word" if column < words else None)
            for column, one in enumerate(others, 1)
        ),
    )
