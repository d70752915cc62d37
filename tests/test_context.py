"""C19 and §3: contextvars, the caller's context, and `enqueue` as an attribute."""

from __future__ import annotations

import asyncio
import gc
import inspect
import typing
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

from loops import LOOPS, Place, comes_true, run_on
from ringdispatch import BackgroundDispatcher
from subprocesses import needs_fork, run_snippet
from support import Sink, SteppedLoop, books_agree

# Contexts never reach a ring.
pytestmark = pytest.mark.usefixtures("in_memory")

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Context:
    """A gateway's request context; keeps what it is handed."""

    def __init__(self) -> None:
        self.receipts: list[Any] = []
        self.lines: list[str] = []
        self.log = self

    def wait_until(self, awaitable: Any) -> None:
        self.receipts.append(awaitable)

    def error(self, message: str) -> None:
        self.lines.append(message)


# ---- contextvars


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("home", ["auto", "thread"])
def test_f40_no_request_leaks_into_a_batch(
    loop_name: str, home: str, dispatcher_class: type
) -> None:  # C19
    in_batches: list[str] = []
    in_hooks: list[str] = []

    async def sink(batch: list[Any]) -> None:
        in_batches.append(tenant.get())
        tenant.set("left behind by a batch")
        await asyncio.sleep(0)
        if batch == ["bad"]:
            raise ValueError

    def on_error(error: BaseException, batch: Any) -> None:
        in_hooks.append(tenant.get())

    def on_drop(reason: str, count: int) -> None:
        in_hooks.append(tenant.get())

    async def request(entry: str) -> None:
        tenant.set(f"request {entry}")
        assert dispatcher.enqueue(entry)
        for _ in range(3):
            dispatcher.enqueue("refused")

    async def main() -> None:
        for entry in ("a", "b", "bad"):
            await asyncio.create_task(request(entry))
            await dispatcher.aflush()
        tenant.set("closer")
        assert await dispatcher.aclose()

    tenant.set("maker")
    dispatcher = dispatcher_class(
        sink, ms_delay=1, capacity=1, home=home, on_error=on_error, on_drop=on_drop
    )
    tenant.set("main")
    run_on(loop_name, main())
    # Three or more: on another thread a batch may leave before the next is refused.
    assert len(in_batches) >= 3
    assert set(in_batches) == {"nobody"}
    assert in_hooks  # on_error at the least
    assert set(in_hooks) == {"nobody"}


def test_f40_neither_early_dispatch_nor_timers_carry_a_request(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C19
    seen: list[str] = []

    async def sink(batch: list[Any]) -> None:
        seen.append(tenant.get())
        if batch == ["slow"]:
            await asyncio.sleep(100)

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink,
            ms_delay=100,
            max_batch=2,
            dispatch_timeout=1,
            on_error=lambda *values: seen.append(tenant.get()),
        )
        tenant.set("request")
        dispatcher.enqueue("a")
        dispatcher.enqueue("b")
        await stepped.settle()
        dispatcher.enqueue("slow")
        await stepped.advance(0.2)
        dispatcher.enqueue("backlog")
        await stepped.advance(2)
        assert await dispatcher.aclose()
        assert seen == ["nobody"] * 4

    tenant.set("maker")
    stepped.run_until_complete(main())


# ---- context.wait_until


async def ended(receipt: Any) -> bool:
    """Whether a receipt can be awaited without waiting."""

    async def wait() -> None:
        assert await receipt is None

    task = asyncio.ensure_future(wait())
    for _ in range(5):
        await asyncio.sleep(0)
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait([task])
    return False


def test_only_the_openers_context_is_looked_at(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} of a context that opened no window")

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=3)
        first, second = Context(), Context()
        dispatcher.enqueue("a", first)
        for _ in range(4):  # also where the ring is full
            dispatcher.enqueue("b", Untouchable())
        await stepped.advance(0.2)
        dispatcher.enqueue("c", context=second)
        dispatcher.enqueue("d", context=Untouchable())
        await stepped.advance(0.2)
        assert len(first.receipts) == len(second.receipts) == 1
        for plain in (None, object(), {}, 0):
            dispatcher.enqueue("e", plain)
            await stepped.advance(0.2)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("outcome", ["settled", "failed", "timed out", "cancelled"])
def test_receipt_ends_with_its_batch_whatever_becomes_of_it(
    stepped: SteppedLoop, sink: Sink, outcome: str, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, dispatch_timeout=5)
        context = Context()
        sink.hold()
        if outcome in {"failed", "cancelled"}:
            sink.error = ValueError() if outcome == "failed" else None
            sink.error = sink.error or asyncio.CancelledError()
        dispatcher.enqueue("a", context)
        await stepped.advance(4)
        (receipt,) = context.receipts
        assert not await ended(receipt)
        assert not await ended(receipt)  # a task that was cancelled ended it for none
        if outcome == "timed out":
            await stepped.advance(2)
        else:
            sink.release()
            await stepped.settle()
        assert await ended(receipt)
        assert await ended(receipt)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_receipt_ends_with_an_entry_that_was_evicted(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=2, max_batch=2, on_full="drop_oldest"
        )
        context = Context()
        sink.hold()
        dispatcher.enqueue("in")
        dispatcher.enqueue("flight")
        await stepped.settle()
        dispatcher.enqueue("opener", context)
        await stepped.settle()
        assert not await ended(context.receipts[0])
        for number in range(3):
            dispatcher.enqueue(number)
        await stepped.advance(1)
        assert dispatcher.statistics().evicted == 2
        assert await ended(context.receipts[0])
        sink.release()
        await stepped.advance(1)
        # While drops are announced already, 4 096 entries later at the latest.
        sink.hold()
        dispatcher.enqueue("in")
        dispatcher.enqueue("flight")
        await stepped.settle()
        dispatcher.enqueue("opener", context)
        await stepped.settle()
        assert not await ended(context.receipts[1])
        for number in range(4096):
            dispatcher.enqueue(number)
        await stepped.settle()
        assert await ended(context.receipts[1])
        sink.release()
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_receipt_ends_with_an_entry_that_was_abandoned(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        contexts = Context(), Context()
        sink.hold()
        dispatcher.enqueue("in flight", contexts[0])
        await stepped.advance(0.2)
        dispatcher.enqueue("pending", contexts[1])
        closing = asyncio.ensure_future(dispatcher.aclose(timeout=1))
        await stepped.advance(0.9)
        assert not await ended(contexts[1].receipts[0])
        await stepped.advance(0.2)
        assert closing.result() is False
        for context in contexts:
            assert await ended(context.receipts[0])

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_receipt_can_be_awaited_on_any_loop_by_several_tasks(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()
    context = Context()

    async def wait() -> Any:
        return await context.receipts[0]

    async def main() -> None:
        sink.hold()
        async with dispatcher_class(sink, ms_delay=1) as dispatcher:
            dispatcher.enqueue("a", context)
            here = [asyncio.create_task(wait()) for _ in range(3)]
            there = [
                asyncio.create_task(asyncio.to_thread(asyncio.run, wait()))
                for _ in range(2)
            ]
            await comes_true(lambda: sink.running)
            here.pop().cancel()
            sink.release()
            assert await asyncio.gather(*here, *there) == [None] * 4
        assert await wait() is None

    run_on(loop_name, main())


def test_receipt_that_nobody_awaits_is_no_burden(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        alive: weakref.WeakSet[Context] = weakref.WeakSet()
        for number in range(100):
            context = Context()
            alive.add(context)
            dispatcher.enqueue(number, context)
            del context
            await stepped.advance(0.2)
        gc.collect()  # a context is its own log
        assert len(alive) == 0
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_context_log_gets_failures_of_its_batch_only(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, name="n1")
        contexts = [Context() for _ in range(3)]
        called: list[str] = []
        contexts[2].log = called.append  # type: ignore[assignment]
        for context, error in zip(
            contexts, (None, ValueError("no"), ValueError("again")), strict=True
        ):
            sink.error = error
            dispatcher.enqueue("a", context)
            await stepped.advance(0.2)
        assert contexts[0].lines == []
        (line,) = contexts[1].lines
        assert "n1" in line
        assert "ValueError('no')" in line
        assert len(called) == 1
        assert "again" in called[0]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


# ---- enqueue as an attribute


def test_signature_and_keyword(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        for enqueue in (dispatcher.enqueue, dispatcher_class.enqueue):
            parameters = inspect.signature(enqueue).parameters
            assert [*parameters][-2:] == ["entry", "context"]
            assert parameters["context"].default is None
            assert "True if it was accepted" in (inspect.getdoc(enqueue) or "")
        context = Context()
        assert dispatcher.enqueue(context=context, entry="a") is True
        assert dispatcher.enqueue(entry="b") is True
        assert len(context.receipts) == 1
        assert await dispatcher.aclose()
        assert sink.entries == ["a", "b"]

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_cached_enqueue_survives_homes_and_close(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1)
    enqueue = dispatcher.enqueue

    async def main(number: int) -> None:
        assert enqueue(number)
        await dispatcher.aflush()

    for number in range(3):
        run_on(loop_name, main(number))
    assert enqueue(3)
    assert dispatcher.close()
    assert enqueue(4) is False
    assert sink.entries == [0, 1, 2, 3]


@needs_fork
def test_cached_enqueue_survives_a_fork(layout: str) -> None:  # C17
    outcome = run_snippet(
        """
        async def send(batch): say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        enqueue = dispatcher.enqueue
        enqueue("parent")
        assert dispatcher.flush()
        pid = os.fork()
        if pid == 0:
            assert enqueue("child")
            assert dispatcher.flush()
            books(dispatcher)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
        warnings=("ignore:This process:DeprecationWarning",),
        layout=layout,
    )
    assert outcome.lines == ["['parent']", "['child']", "accepted=1 dispatched=1"]


# Objects only: the stand-ins override it.
def test_subclass_may_override_enqueue(stepped: SteppedLoop, sink: Sink) -> None:
    class Tagged(BackgroundDispatcher[Any]):
        def enqueue(self, entry: Any, context: Any = None) -> bool:
            return super().enqueue(("tagged", entry), context)

    class Child(Tagged):
        pass

    class Plain(BackgroundDispatcher[Any]):
        pass

    async def main() -> None:
        for kind in (Tagged, Child, Plain):
            dispatcher = kind(sink, ms_delay=100)
            dispatcher.enqueue("a")
            assert await dispatcher.aclose()
            books_agree(dispatcher)
        assert sink.entries == [("tagged", "a"), ("tagged", "a"), "a"]
        assert "enqueue" in vars(Plain)
        assert "enqueue" not in vars(Child)

    stepped.run_until_complete(main())


def test_generic_subscript_works_at_run_time(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    kind = dispatcher_class[dict[str, int]]
    assert typing.get_args(kind) == (dict[str, int],)
    assert typing.get_origin(kind) is dispatcher_class
    dispatcher = kind(sink, ms_delay=1)
    assert isinstance(dispatcher, dispatcher_class)
    assert bool(dispatcher)  # idle, and not falsy
    assert dispatcher.close()
