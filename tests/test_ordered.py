"""The set in order, for calls and waiters: against a list, and from several threads."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extent import extent
from racing import impatience, race
from ringdispatch._ordered import OrderedSet

THREADS = 4
ROUNDS = extent(800, 2_000)


class Item:
    pass


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    with impatience():
        yield


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "add_first", "discard"]), st.integers(0, 5)),
        max_size=40,
    )
)
def test_does_what_a_list_does(steps: list[tuple[str, int]]) -> None:
    items = [Item() for _ in range(6)]
    mine: OrderedSet[Item] = OrderedSet()
    model: list[Item] = []
    for step, number in steps:
        item = items[number]
        there = item in model
        if step == "add":
            mine.add(item)
            model += [] if there else [item]
        else:
            if there:
                model.remove(item)
            if step == "add_first":
                mine.add_first(item)
                model.insert(0, item)
            else:
                assert mine.discard(item) is there
        assert list(mine) == model
        assert len(mine) == len(model)
        assert bool(mine) is bool(model)
        assert [each in mine for each in items] == [each in model for each in items]
        assert mine.first() is (model[0] if model else None)
        assert mine.first_few(2) == model[:2]


def test_item_moves_to_the_other_set_only_if_it_is_in_the_one() -> None:
    first, second, absent = Item(), Item(), Item()
    here: OrderedSet[Item] = OrderedSet()
    there: OrderedSet[Item] = OrderedSet()
    for item in (first, second):
        here.add(item)
    for item in (second, absent, first, first):
        here.move(item, there)
    assert (list(here), list(there)) == ([], [second, first])
    for each in (here, there):
        each.add(absent)
    here.move(absent, there)
    assert (list(here), list(there)) == ([], [second, first, absent])


def test_iterates_over_what_it_held_at_the_start() -> None:
    items = [Item() for _ in range(3)]
    mine: OrderedSet[Item] = OrderedSet()
    for item in items:
        mine.add(item)
    seen = []
    for item in mine:
        seen.append(item)
        mine.discard(item)
        mine.add(Item())
    assert seen == items
    assert len(mine) == 3


def test_keeps_what_it_holds_and_nothing_else() -> None:
    mine: OrderedSet[Item] = OrderedSet()
    item = Item()
    gone = weakref.ref(item)
    mine.add(item)
    mine.add_first(item)
    del item
    gc.collect()
    kept = gone()
    assert kept is not None
    mine.discard(kept)
    del kept
    assert gone() is None
    mine.add(Item())
    del mine
    before = sys.getallocatedblocks()
    for _ in range(1_000):
        dropped: OrderedSet[Item] = OrderedSet()
        dropped.add(Item())
        del dropped
    assert sys.getallocatedblocks() - before < 500


def test_threads_that_change_and_read_it_at_once() -> None:  # C18
    mine: OrderedSet[tuple[int, int]] = OrderedSet()
    orders: list[list[tuple[int, int]]] = [[] for _ in range(THREADS)]

    def change(who: int) -> None:
        for number in range(ROUNDS):
            item = (who, number)
            (mine.add_first if number % 3 == 0 else mine.add)(item)
            orders[who].append(mine.first() or item)
            mine.first_few(3)
            assert number % 2 or mine.discard(item)

    def read() -> None:
        for _ in range(ROUNDS // 4):
            found = list(mine)
            assert len(set(found)) == len(found)
            assert len(mine) <= THREADS * ROUNDS

    race(*(lambda who=who: change(who) for who in range(THREADS)), read)
    left = {(who, n) for who in range(THREADS) for n in range(1, ROUNDS, 2)}
    assert set(mine) == left
    assert len(mine) == len(left)
    assert all(len(seen) == ROUNDS for seen in orders)
    for item in list(mine):
        assert mine.discard(item)
    assert mine.first() is None
