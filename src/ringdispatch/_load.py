"""The user's own functions, as the commands are given them: "package.module:name"."""

import difflib
import importlib
from typing import Any


class NotLoadedError(Exception):
    """There is no such function; one line says why, and what to do."""


def load(what: str, target: str) -> Any:
    """A callable of the user's, by "package.module:name".

    Raises:
        NotLoadedError: it can't be imported, is not there, or is not callable.
    """
    name, colon, path = target.partition(":")
    if not (colon and name and path):
        raise NotLoadedError(f"{what} {target!r}: must be given as package.module:name")
    try:
        found: Any = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NotLoadedError(
            f"{what} {target!r}: importing {name} raised {one_line(error)}; "
            f"{_way_to_import(name, error)}"
        ) from None
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NotLoadedError(
                f"{what} {target!r}: {name} has no {path!r}{_alike(part, found)}"
            ) from None
    if not callable(found):
        raise NotLoadedError(
            f"{what} {target!r}: is {found!r:.80}, which is not callable; name a "
            f"function of {name}"
        )
    return found


def _way_to_import(name: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return 'put what it runs under if __name__ == "__main__"'
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{name}.".startswith(f"{missing}."):
        return "run from the folder that it is imported from, or set PYTHONPATH"
    return f"check it with python -c 'import {name}'"


def _alike(name: str, where: Any) -> str:
    """The names like it, else some functions that are there."""
    there = [
        each
        for each, value in getattr(where, "__dict__", {}).items()
        if callable(value) and not each.startswith("_")
    ]
    alike = difflib.get_close_matches(name, there) or there[:5]
    return f"; it has {', '.join(alike)}" if alike else "; define it there"


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
