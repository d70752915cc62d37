"""Draws the picture in the README: what one call costs, ours beside its peers."""

from ringdispatch._tune._figures import price_figures
from ringdispatch._tune._results import Results

# Of the report's own style, what these bars need; on white, for light and dark pages.
STYLE = """
svg { font: 10.5px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
text { fill: #5b6068; } path { fill: none; } .tick { font-size: 10px; }
.grid { stroke: #e9ebee; } .reach { stroke: #5b6068; }
.name { fill: #1a1c1f; } .bar { fill: #c3c8cf; }
.ours .bar { fill: #0b5cad; } .ours text { fill: #0b5cad; font-weight: 600; }
"""


def picture(results: Results) -> str:
    """The bars of one thread's call in a ring or queue with room, as an SVG file."""
    drawn = price_figures(
        [one for one in results.prices if one.threads == 1 and not one.full]
    )
    svg = drawn.partition("<svg ")[2].partition("</svg>")[0]
    attributes, _, parts = svg.partition(">")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{parts}</svg>\n"
    )
