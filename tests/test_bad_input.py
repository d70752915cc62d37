"""C12: what is refused, and in which words."""

from __future__ import annotations

import asyncio
import copy
import enum
import functools
import gc
import pickle
import re
from fractions import Fraction
from typing import Any

import pytest

from lines import Line
from loops import eventually
from refused import INF, NAN, REFUSED
from ringdispatch import BackgroundDispatcher, Bytes, Full, Objects
from subprocesses import run_snippet
from support import Sink, SteppedLoop


async def send(batch: list[Any]) -> None:
    pass


@pytest.mark.parametrize(("name", "value", "error"), REFUSED)
def test_refused_by_a_message_naming_parameter_and_value(
    name: str, value: Any, error: type[Exception]
) -> None:  # C12
    options: dict[str, Any] = {"dispatch_function": send, "ms_delay": 10}
    options[name] = value
    with pytest.raises(error, match=re.escape(f"{name}={value!r}")):
        BackgroundDispatcher(**options)


def test_each_kind_of_mistake_has_its_own_message() -> None:  # C12
    said: dict[str, set[str]] = {}
    for name, value, error in REFUSED:
        options: dict[str, Any] = {"dispatch_function": send, "ms_delay": 10}
        with pytest.raises(error) as caught:
            BackgroundDispatcher(**{**options, name: value})
        said.setdefault(str(caught.value).split(": ", 1)[1], set()).add(name)
    assert "must be callable" in said
    for message, names in said.items():
        shared = {"capacity", "max_batch", "max_in_flight"} >= names
        hooks = {"on_error", "on_drop", "dispatch_function"} >= names
        assert len(names) == 1 or shared or hooks, (message, names)


class Unprintable(float):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("capacity", 10**5000, MemoryError),
        ("max_batch", 10**5000, ValueError),
        ("ms_delay", 10**5000, ValueError),
        ("ms_delay", Unprintable(-1), ValueError),
        ("dispatch_timeout", Unprintable(-1), ValueError),
        ("max_in_flight", Unprintable(1), TypeError),
        ("name", Unprintable(1), TypeError),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_value_that_can_not_be_printed_is_refused_by_its_name(
    name: str, value: Any, error: type[Exception]
) -> None:  # C12
    options: dict[str, Any] = {"ms_delay": 10, name: value}
    with pytest.raises(error, match=f"^{name}=<.* in its repr>: "):
        BackgroundDispatcher(send, **options)


def test_words_may_be_of_a_subclass() -> None:
    class OnFull(enum.StrEnum):
        DROP = "drop_oldest"

    class Separator(bytes):
        pass

    BackgroundDispatcher(send, ms_delay=1, on_full=OnFull.DROP)
    layout = Bytes(separator=Separator(b"|"))
    assert layout == Bytes(separator=b"|")
    line = Line(layout, 1, on_full=OnFull.DROP)
    assert line.enqueue(b"1")
    assert line.enqueue(b"2")
    assert line.take().payload == b"2|"


def test_a_partial_function_lends_its_functions_name() -> None:
    async def lender(batch: list[Any]) -> None:
        pass

    dispatcher = BackgroundDispatcher(
        functools.partial(functools.partial(lender)), ms_delay=1
    )
    assert dispatcher.name == lender.__qualname__


def test_max_batch_above_capacity_names_both() -> None:  # C12
    with pytest.raises(ValueError, match=r"max_batch=9: .*capacity=8"):
        BackgroundDispatcher(send, ms_delay=10, capacity=8, max_batch=9)


def test_ms_delay_is_required_and_options_are_keywords() -> None:  # C12
    with pytest.raises(TypeError, match="ms_delay"):
        BackgroundDispatcher(send)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        BackgroundDispatcher(send, 10)  # type: ignore[misc]
    with pytest.raises(TypeError, match="delay"):
        BackgroundDispatcher(send, ms_delay=1, delay=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        {"ms_delay": 0.001},
        {"ms_delay": 1e9},
        {"ms_delay": 10, "capacity": 1, "max_batch": 1},
        {"ms_delay": 10, "dispatch_timeout": None},
        {"ms_delay": 10, "dispatch_timeout": 1},
        {"ms_delay": 10, "on_error": print, "on_drop": print, "name": ""},
    ],
)
def test_values_at_the_edge_are_accepted(options: dict[str, Any]) -> None:  # C12
    assert BackgroundDispatcher(send, **options).close()


@pytest.mark.parametrize("value", [Fraction(5, 2), 10**400], ids=["fraction", "huge"])
def test_unusual_numbers_are_refused_or_taken_but_never_crash(value: Any) -> None:
    try:  # C12
        dispatcher = BackgroundDispatcher(send, ms_delay=value)
    except (TypeError, ValueError) as error:
        assert "ms_delay=" in str(error)  # noqa: PT017
    else:
        assert dispatcher.close()


def test_refused_dispatcher_leaves_nothing_behind() -> None:  # C12
    for _ in range(10):
        with pytest.raises(ValueError, match="home"):
            BackgroundDispatcher(send, ms_delay=1, home="x")
    gc.collect()  # a finalizer that fails would warn


@pytest.mark.parametrize("method", ["aflush", "aclose", "flush", "close", "aenqueue"])
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (NAN, ValueError), (True, TypeError), ("1", TypeError)],
)
def test_bad_timeout_is_refused_and_changes_nothing(
    method: str, timeout: Any, error: type[Exception]
) -> None:
    dispatcher = BackgroundDispatcher(send, ms_delay=1)

    async def main() -> None:
        arguments = ["a"] if method == "aenqueue" else []

        async def call() -> None:
            await getattr(dispatcher, method)(*arguments, timeout=timeout)

        with pytest.raises(error, match=re.escape(f"timeout={timeout!r}")):
            await call()

    asyncio.run(main())
    assert not dispatcher.closed
    assert dispatcher.statistics().accepted == 0
    assert dispatcher.close(timeout=INF)


# ---- what enqueue answers


def test_enqueue_on_a_closed_dispatcher_is_false() -> None:
    for on_full in ("drop_newest", "drop_oldest", "raise"):
        dispatcher = BackgroundDispatcher(send, ms_delay=1, on_full=on_full)
        dispatcher.close()
        assert dispatcher.enqueue("a") is False
        assert dispatcher.statistics().rejected_closed == 1


def test_full_names_the_number_and_the_way_out(
    stepped: SteppedLoop, sink: Sink
) -> None:
    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink, ms_delay=100, capacity=3, on_full="raise"
        )
        for number in range(3):
            assert dispatcher.enqueue(number)
        with pytest.raises(Full, match=r"full \(3 pending\): raise capacity"):
            dispatcher.enqueue(3)
        assert dispatcher.statistics().rejected_full == 1
        assert await dispatcher.aclose()
        assert sink.entries == [0, 1, 2]

    stepped.run_until_complete(main())


@pytest.mark.parametrize("method", ["flush", "close"])
def test_blocking_call_on_the_home_loops_thread_names_the_way_out(method: str) -> None:
    async def main() -> None:
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        dispatcher.enqueue("a")
        with pytest.raises(RuntimeError, match=rf"await a{method}\(\)"):
            getattr(dispatcher, method)()
        assert await asyncio.to_thread(getattr(dispatcher, method))
        assert await dispatcher.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("method", ["flush", "close"])
def test_blocking_call_on_the_background_loops_thread_is_refused(method: str) -> None:
    said: list[str] = []

    async def sink(batch: list[Any]) -> None:
        try:
            getattr(dispatcher, method)()
        except RuntimeError as error:
            said.append(str(error))

    dispatcher = BackgroundDispatcher(sink, ms_delay=1)
    dispatcher.enqueue("a")
    eventually(lambda: said)
    assert f"await a{method}()" in said[0]
    assert dispatcher.close()


def test_blocking_call_is_fine_in_another_loops_thread() -> None:
    async def main() -> None:
        dispatcher = BackgroundDispatcher(send, ms_delay=1, home="thread")
        dispatcher.enqueue("a")
        assert dispatcher.flush()
        assert dispatcher.close()
        assert dispatcher.statistics().dispatched == 1

    asyncio.run(main())


def test_blocking_call_in_a_greenlet_is_not_refused() -> None:
    """In a patched program the greenlet's loop may be another greenlet's."""
    pytest.importorskip("greenlet")
    outcome = run_snippet(
        """
        import greenlet
        done = []
        async def send(batch):
            done.append(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1, home="thread")
        def work():
            dispatcher.enqueue("a")
            assert dispatcher.flush()
            assert dispatcher.close()
        async def main():
            greenlet.greenlet(work).switch()
        asyncio.run(main())
        say(done)
        """
    )
    assert outcome.lines == ["[['a']]"]


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            functools.partial(pickle.dumps, protocol=protocol)
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_f33_pickling_and_copying_are_refused(duplicate: Any) -> None:
    dispatcher = BackgroundDispatcher(send, ms_delay=1, name="n1")
    with pytest.raises(TypeError, match=r"n1.*cannot be pickled or copied"):
        duplicate(dispatcher)
    assert dispatcher.close()


@pytest.mark.parametrize("capacity", [2**40, 2**58, 2**63 - 1, 2**64, 10**30])
def test_f34_capacity_beyond_memory_is_named(capacity: int) -> None:
    with pytest.raises(MemoryError, match=f"capacity={capacity}"):
        BackgroundDispatcher(send, ms_delay=1, capacity=capacity)


@pytest.mark.parametrize("arguments", [(), ("a", None, 1)])
def test_enqueue_with_wrong_arguments(arguments: tuple[Any, ...]) -> None:
    dispatcher = BackgroundDispatcher(send, ms_delay=1)
    with pytest.raises(TypeError, match="argument"):
        dispatcher.enqueue(*arguments)
    with pytest.raises(TypeError, match="argument"):
        dispatcher.enqueue("a", contex=None)  # type: ignore[call-arg]
    assert dispatcher.statistics().accepted == 0
    assert dispatcher.close()


def test_enqueue_before_the_constructor_and_constructing_twice() -> None:
    class Late(BackgroundDispatcher[Any]):
        def __init__(self) -> None:
            with pytest.raises(RuntimeError, match="__init__ was not called"):
                self.enqueue("a")
            super().__init__(send, ms_delay=1)
            with pytest.raises(RuntimeError, match="called twice"):
                super().__init__(send, ms_delay=1)

    dispatcher = Late()
    assert dispatcher.close()


def test_blocking_call_is_refused_before_the_first_window_is_served() -> None:
    raised: list[str] = []

    async def ignore(batch: list[int]) -> None:
        pass

    other = BackgroundDispatcher(ignore, ms_delay=1, home="thread")

    async def send(batch: list[int]) -> None:
        other.enqueue(1)
        try:
            other.close(timeout=1)
        except RuntimeError as error:
            raised.append(str(error))

    dispatcher = BackgroundDispatcher(send, ms_delay=1, home="thread")
    dispatcher.enqueue(1)
    assert dispatcher.close()
    assert len(raised) == 1
    assert "await aclose() instead" in raised[0]
    assert other.close()
    assert other.statistics().dispatched == 1


def test_dispatch_function_that_yields_is_refused() -> None:  # C12
    def generator(batch: list[int]) -> Any:
        yield batch

    async def async_generator(batch: list[int]) -> Any:
        yield batch

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match=r"dispatch_function=.*not a generator"):
            BackgroundDispatcher(function, ms_delay=1)


@pytest.mark.parametrize("layout", [Objects, None, 3])
def test_layout_that_is_none_is_refused(layout: Any) -> None:  # C12
    with pytest.raises(TypeError, match=r"layout=.*must be a layout, such as Objects"):
        BackgroundDispatcher(print, ms_delay=1, layout=layout)


def test_numbers_beyond_every_machine_are_taken_for_the_most_there_is() -> None:
    got: list[int] = []
    dispatcher = BackgroundDispatcher(got.extend, ms_delay=1, max_in_flight=2**70)
    dispatcher.enqueue(1)
    assert dispatcher.flush(timeout=1e12)
    assert dispatcher.close(timeout=1e300)
    assert got == [1]


def test_subclass_without_a_constructor_of_ours_says_so() -> None:
    class Forgetful(BackgroundDispatcher[int]):
        def __init__(self) -> None:
            pass

    dispatcher = Forgetful()
    for use in (dispatcher.statistics, lambda: dispatcher.pending, dispatcher.__repr__):
        with pytest.raises(RuntimeError, match=r"Forgetful.__init__ was not called"):
            use()
