"""The tables of docs/servers.md, from what was measured."""

from __future__ import annotations

import server_table
from server_table import Cell, Ends, summed


def test_cell_says_what_came_of_its_ends() -> None:
    assert str(Ends(20, 0, 5_000, 5_000)) == "all"
    assert str(Ends(20, 0, 5_000, 3_000)) == "3,000 of 5,000"
    assert str(Ends(20, 3, 4_250, 4_250)) == "hung in 3 of 20, else all"
    assert str(Ends(20, 20, 0, 0)) == "hung in 20 of 20"
    several = summed([Ends(20, 0, 500, 400), Ends(20, 1, 475, 475)])
    assert several == Ends(40, 1, 975, 875)


def test_every_cell_of_the_page_was_measured() -> None:
    machine, measured = server_table.read()
    assert machine["python"]
    cells = server_table.all_cells()
    assert [cell for cell in cells if cell not in measured] == []
    # Some deliver all; SIGKILL loses what is pending under every server, and none with
    # a spool.
    assert str(measured[Cell("uvicorn", "lifespan", "SIGTERM")]) == "all"
    for cell in cells:
        if cell.signal == "SIGKILL":
            delivers_all = measured[cell].delivered == measured[cell].accepted
            assert delivers_all == cell.spool, cell
