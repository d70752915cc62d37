"""Names of dispatchers, given or not: unique among the living."""

import heapq
import weakref
from collections.abc import Callable
from typing import Any

# Of the living dispatchers, by name; and by the name that was asked for.
_owners: dict[str, "weakref.ref[Any]"] = {}
_numbers: dict[str, "_Numbers"] = {}


class _Numbers:
    """The numbers of one name: those given back, as a heap, and the first unused."""

    __slots__ = ("free", "unused")

    def __init__(self) -> None:
        self.free: list[int] = []
        self.unused = 1


def unique_name(name: str, owner: object) -> str:
    """The name, or the first of name-2, name-3, ... that no other living owner has.

    Without a lock: single operations of a dict or heap decide between threads, and a
    finalizer may be in here at any point. `_owners` has the last word; numbers that a
    race leaves wrong cost a few steps more.
    """
    numbers = _numbers.setdefault(name, _Numbers())

    def give_back(
        reference: object,
        owners: dict[str, "weakref.ref[Any]"] = _owners,
        all_numbers: dict[str, _Numbers] = _numbers,
        push: Callable[[list[int], int], None] = heapq.heappush,
    ) -> None:
        if owners.get(unique) is reference:
            del owners[unique]
        push(numbers.free, number)
        if len(numbers.free) >= numbers.unused - 1:  # all are free
            all_numbers.pop(name, None)

    reference = weakref.ref(owner, give_back)
    try:
        number = heapq.heappop(numbers.free)
    except IndexError:
        number = numbers.unused
    while True:
        unique = name if number == 1 else f"{name}-{number}"
        if _owners.setdefault(unique, reference) is reference:
            break
        number += 1
    numbers.unused = max(numbers.unused, number + 1)
    return unique
