"""The pictures of the pages can be read: on a phone, on light and on dark pages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

PICTURES = sorted((Path(__file__).parent.parent / "docs" / "images").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
COLUMN = 358  # pixels that a page 390 wide leaves for a picture
DARK = "@media (prefers-color-scheme: dark)"
SURFACES = (".paper", ".tint")
ON_SURFACES = ("text", ".soft", ".ours")  # classes of text
FILLED = (".full", ".other")  # with text of the class .on
MARKS = (".line", ".our-line", ".their-line", ".theirs", *FILLED)


def style(picture: Path) -> str:
    found = ET.parse(picture).getroot().find(f"{SVG}style")
    assert found is not None
    assert found.text
    return found.text


def colours(rules: str) -> dict[str, str]:
    return dict(re.findall(r"([\w.-]+) \{ (?:fill|stroke): (#[0-9a-f]{6});", rules))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_there_are_pictures_and_all_have_one_style() -> None:
    assert len(PICTURES) > 10
    assert len({style(picture) for picture in PICTURES}) == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_what_they_lie_on(dark: bool) -> None:
    seen = colours(style(PICTURES[0]).split(DARK)[dark])
    for surface in SURFACES:
        for text in ON_SURFACES:
            assert contrast(seen[text], seen[surface]) >= 4.5, (text, surface)
        for mark in MARKS:
            assert contrast(seen[mark], seen[surface]) >= 3, (mark, surface)
    for surface in FILLED:
        assert contrast(seen[".on"], seen[surface]) >= 4.5, surface


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_picture_is_readable_on_a_phone(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    smallest = min(map(float, re.findall(r"([\d.]+)px", style(picture))))
    assert smallest * COLUMN / width >= 11
    for text in root.iter(f"{SVG}text"):
        assert not {"style", "fill", "font-size"} & set(text.attrib), text.text
        known = {"soft", "ours", "on", "bold", "code", "middle", "end"}
        assert set(text.get("class", "").split()) <= known
        assert left <= float(text.attrib["x"]) <= left + width
        assert top <= float(text.attrib["y"]) <= top + height


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_picture_says_what_it_shows(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
