"""What is compared: a call that puts an entry, as it is used."""

import logging
from collections.abc import Callable
from itertools import repeat
from typing import Any

ENTRY: dict[str, Any] = {"message": "new request", "status": 200}


class Peer:
    """Something that takes entries.

    Attributes:
        name: As the tables have it.
        package: What it comes in, where that is not the standard library or this one.
        call: What is timed: an expression over `sink` and `entry`.
        bounded: Whether it can be full.
        threads: Whether several threads may call it.
        refusal: What the call raises when it is full.
        more: What it does that ours does not, in the call and later.
        sink, entry: What the expression is about.
    """

    name: str
    package: str | None = None
    call = "sink.put_nowait(entry)"
    bounded = True
    threads = True
    more = ""
    refusal: type[Exception] | None = None
    entry: Any = ENTRY
    sink: Any

    def __init__(self, room: int) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        """Empty it, outside of what is timed."""
        while not self.sink.empty():
            self.sink.get_nowait()

    def fill(self, room: int) -> None:
        """Leave no room."""
        self.loop(room + 64)()

    def close(self) -> None:
        """Close all that it started."""

    def loop(self, calls: int) -> Callable[[], None]:
        """A function that makes so many calls, as a caller would write them."""
        lines = [self.call]
        if self.refusal is not None:
            lines = ["try:", f"    {self.call}", "except refusal:", "    pass"]
        body = "".join(f"        {line}\n" for line in lines)
        code = f"def run(sink, entry, refusal):\n    for _ in repeat(None, {calls}):\n"
        scope: dict[str, Any] = {"repeat": repeat}
        # A method is only fast where the code names it: the interpreter specialises.
        exec(code + body, scope)
        run = scope["run"]
        return lambda: run(self.sink, self.entry, self.refusal)


def quiet(name: str) -> None:
    """Let what a peer logs go nowhere: formatting is its price, the terminal is not."""
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.handlers = [logging.NullHandler()]
