"""Imports a dispatch function before anything is measured, in a process of its own.

    python -m ringdispatch._tune._check '"package.module:name"'

prints as JSON why it can't be imported, or nothing: what its module starts ends with
the process.
"""

import os

from ._apart import answer, run_apart, take_order
from ._entries import CellError, load_function

# Seconds that an import is expected to take, before it is given another minute.
_EXPECTED_SECONDS = 5.0


def check_function(target: str) -> None:
    """Check that there is such a dispatch function.

    Raises:
        CellError: it can't be imported, is not there, or is no dispatch function.
    """
    ended = run_apart("ringdispatch._tune._check", target, _EXPECTED_SECONDS)
    if not ended.lines:
        name = target.partition(":")[0]
        raise CellError(
            f"dispatch function {target!r}: importing {name} ended the process: "
            f"{ended.why()}; check it with python -c 'import {name}'"
        )
    if (error := ended.lines[-1]["error"]) is not None:
        raise CellError(error)


def _main() -> None:
    target, answers = take_order()
    try:
        load_function(target)
    except CellError as error:
        answer(answers, {"error": str(error)})
    else:
        answer(answers, {"error": None})
    os._exit(0)  # no teardown: the user's module may have started anything


if __name__ == "__main__":
    _main()
