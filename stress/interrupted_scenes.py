"""Scenes in a dispatcher's life that an exception interrupts, and what holds after it.

A scene is a coroutine function that plays with a dispatcher of its own. It runs on an
event loop, or with `on=THREAD` in a thread without one, where none of its waits
suspends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from interrupted_sink import Sink
from interruption import Interruption
from ringdispatch import BackgroundDispatcher

GRACE = 0.02  # seconds that a scene goes on after the exception
LOOP, THREAD, RUN = "a loop", "a thread", "asyncio.run"


class Stranded(Exception):
    """What must hold after an exception does not."""


class Trial:
    """One scene, played once, with at most one exception in it."""

    def __init__(self, scene: Scene, interruption: Interruption) -> None:
        self.scene = scene
        self.interruption = interruption
        self.sink = Sink()
        self.drops: list[object] = []
        self.errors: list[object] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.receipts: list[asyncio.Task[Any]] = []
        self.max_in_flight: int = scene.options.get("max_in_flight", 1)
        self.dispatcher: BackgroundDispatcher[Any] = self.make()

    def make(self) -> BackgroundDispatcher[Any]:
        """A dispatcher as the scene wants it."""
        hooks = {
            "on_drop": lambda *drop: self.drops.append(drop),
            "on_error": lambda *error: self.errors.append(error),
        }
        sink = getattr(self.sink, self.scene.sink)
        options = {"ms_delay": 2, "capacity": 8, **hooks, **self.scene.options}
        return BackgroundDispatcher(sink, **options)

    def wait_until(self, awaitable: Awaitable[None]) -> None:
        """As the context of a request: keeps what it is handed until it has ended."""

        async def end() -> None:
            await awaitable

        self.receipts.append(asyncio.get_running_loop().create_task(end()))

    # ---- what scenes do

    def attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call what may raise the exception; then None."""
        try:
            return call(*args)
        except self.interruption.errors:
            return None

    async def attempt_async(self, awaitable: Awaitable[Any]) -> Any:
        """Await what may raise the exception; then None."""
        try:
            return await awaitable
        except self.interruption.errors:
            return None

    async def pause(self, seconds: float = 0.001) -> None:
        if self.scene.on == THREAD:
            time.sleep(seconds)  # noqa: ASYNC251, no loop runs here
        else:
            await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what only an exception can prevent."""
        give_up = time.monotonic() + self.interruption.patience
        while not condition():
            now = time.monotonic()
            fired = self.interruption.fired_at
            if fired is not None and now > fired + GRACE:
                return
            if now > give_up:
                raise Stranded("the scene stands still, nothing was raised")
            await self.pause()
        await self.pause(0.003)  # what comes after it runs interrupted too

    # ---- playing

    def play(self) -> None:
        """Play the scene, then see what holds."""
        if self.scene.on == THREAD:
            _without_loop(self._play())
            _without_loop(self.verify())
        elif self.scene.on == RUN:
            self.interruption.armed = True
            try:
                asyncio.run(self.scene.body(self))
            except BaseException:  # asyncio makes a RuntimeError of some
                if not self.interruption.fired:
                    raise
            self.interruption.end()
            self.sink.renew()
            asyncio.run(self.verify())
        else:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            self._drive(loop, self._play())
            self._drive(loop, self.verify())
            loop.close()

    async def _play(self) -> None:
        if self.scene.warm:
            self.dispatcher.enqueue("warm")
            await self.until(lambda: self.sink.ended == 1)
        self.interruption.armed = True
        try:
            if self.scene.on == THREAD:
                await self.scene.body(self)
            else:
                async with asyncio.timeout(2 * self.interruption.patience):
                    await self.scene.body(self)
        except TimeoutError:
            raise Stranded("what the scene awaits does not come") from None
        finally:
            self.interruption.end()

    def _drive(
        self, loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]
    ) -> None:
        task = loop.create_task(main)
        for _ in range(5):  # the exception may come out of the loop, once
            try:
                loop.run_until_complete(task)
            except BaseException:
                if not self.interruption.fired:
                    raise
            if task.done():
                break
        return task.result()

    # ---- what must hold

    async def must(self, what: str, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + self.interruption.patience
        while not condition():
            if time.monotonic() > give_up:
                raise Stranded(what)
            await self.pause()

    async def verify(self) -> None:
        """See that nothing leaked and nothing is stranded, then close.

        Raises:
            Stranded: with what does not hold.
        """
        sink, dispatcher = self.sink, self.dispatcher
        sink.gate.set()
        sink.fails = False
        if self.scene.closes:
            await self.close(dispatcher)
            if dispatcher.enqueue("refused"):
                raise Stranded("an entry was accepted after close")
        else:
            await self.deliver(dispatcher)
            if await self.close(dispatcher) is not True:
                raise Stranded("close returned False")
        for task in (*self.tasks, *self.receipts):
            await self.must("a waiter waits for ever", task.done)
            task.cancelled() or task.exception()
        seen = dispatcher.statistics()
        settled = seen.dispatched + seen.failed + seen.evicted + seen.abandoned
        if seen.pending or seen.in_flight or seen.accepted != settled:
            raise Stranded(
                f"the books disagree: accepted {seen.accepted}, settled {settled}, "
                f"pending {seen.pending}, in flight {seen.in_flight}"
            )
        if seen.dispatched > len(sink.got):
            raise Stranded(
                f"dispatched {seen.dispatched}, received {len(sink.got)} entries"
            )
        if self.scene.beside:
            beside = self.make()
            await self.deliver(beside)
            if await self.close(beside) is not True:
                raise Stranded("another dispatcher's close returned False")

    async def deliver(self, dispatcher: BackgroundDispatcher[Any]) -> None:
        """See that entries go out, and as many batches at once as there may be."""
        sink = self.sink
        for later in (object(), object()):
            await self.must(
                "later entries are refused, the ring stays full",
                lambda: dispatcher.enqueue(later),  # noqa: B023
            )
            await self.must("a later entry did not go out", lambda: later in sink.got)  # noqa: B023
        await self.must("a later call did not end", lambda: not sink.running)
        sink.gate.clear()
        for place in range(1, self.max_in_flight + 1):
            dispatcher.enqueue(place)
            await self.must(
                f"a slot is lost: only {place - 1} of {self.max_in_flight} calls run",
                lambda: sink.running == place,  # noqa: B023
            )
        sink.gate.set()

    async def close(self, dispatcher: BackgroundDispatcher[Any]) -> bool:
        if self.scene.on == THREAD:
            return dispatcher.close(self.interruption.patience)
        return await dispatcher.aclose(self.interruption.patience)


def _without_loop(main: Coroutine[Any, Any, None]) -> None:
    try:
        main.send(None)
    except StopIteration:
        return
    raise AssertionError("suspended where no loop runs")


@dataclass(frozen=True)
class Scene:
    """What is interrupted."""

    body: Callable[[Trial], Coroutine[Any, Any, None]]
    sink: str
    on: str
    warm: bool  # whether the dispatcher has had an entry before
    closes: bool  # whether the scene closes the dispatcher
    beside: bool  # whether another dispatcher must work there as well
    options: dict[str, Any]


SCENES: dict[str, Scene] = {}


def scene(
    name: str,
    *,
    sink: str = "instant",
    on: str = LOOP,
    warm: bool = True,
    closes: bool = False,
    beside: bool = True,
    **options: Any,
) -> Callable[[Any], Any]:
    def register(body: Any) -> Any:
        SCENES[name] = Scene(body, sink, on, warm, closes, beside, options)
        return body

    return register


@scene("window, ordinary function", sink="ordinary")
@scene("window, suspending sink", sink="suspending")
@scene("window", sink="instant")
@scene("first entry", warm=False)
@scene("first entry, no loop", warm=False, on=THREAD)
@scene("window, no loop", on=THREAD)
@scene("window, ordinary function, no loop", sink="ordinary", on=THREAD)
async def window(trial: Trial) -> None:
    ended = trial.sink.ended
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.until(lambda: trial.sink.ended > ended)


@scene("window with a context")
async def context(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry", trial)
    await trial.until(lambda: trial.sink.ended > 1)


@scene("two calls in flight", max_in_flight=2, max_batch=2)
async def two_calls(trial: Trial) -> None:
    sink = trial.sink
    sink.gate.clear()
    for running in (1, 2):
        trial.attempt(trial.dispatcher.enqueue, running)
        await trial.until(lambda: sink.running == running)  # noqa: B023
    for entry in range(3):  # more than a batch: they wait for a slot
        trial.attempt(trial.dispatcher.enqueue, entry)
    sink.gate.set()
    await trial.until(lambda: sink.ended == 5)


@scene("a full batch", max_batch=2, ms_delay=50)
async def full_batch(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, 1)
    trial.attempt(trial.dispatcher.enqueue, 2)
    await trial.until(lambda: trial.sink.ended > 1)


@scene("aflush", ms_delay=50)
async def aflush(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.attempt_async(trial.dispatcher.aflush(0.1))


@scene("two aflush, cancelled", ms_delay=50)
async def aflush_cancelled(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "entry")
    loop = asyncio.get_running_loop()
    flush = trial.dispatcher.aflush
    trial.tasks += [loop.create_task(flush(0.1)) for _ in range(2)]
    await asyncio.sleep(0.002)
    trial.tasks[0].cancel()
    trial.sink.gate.set()
    await trial.until(trial.tasks[1].done)


@scene("flush", on=THREAD, ms_delay=50)
async def flush(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry")
    trial.attempt(trial.dispatcher.flush, 0.1)


@scene("aclose", closes=True, ms_delay=50)
@scene("aclose, closable sink", sink="closable", closes=True, ms_delay=50)
async def aclose(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.attempt_async(trial.dispatcher.aclose(0.1))


@scene("close", closes=True, on=THREAD, ms_delay=50)
@scene("close, closable sink", sink="closable", closes=True, on=THREAD, ms_delay=50)
async def close(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry")
    trial.attempt(trial.dispatcher.close, 0.1)


@scene("aclose times out", closes=True)
async def aclose_times_out(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "in flight")
    await trial.until(lambda: trial.sink.running == 1)
    trial.attempt(trial.dispatcher.enqueue, "pending")
    await trial.attempt_async(trial.dispatcher.aclose(0.005))


@scene("close times out", closes=True, on=THREAD)
async def close_times_out(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "in flight")
    await trial.until(lambda: trial.sink.running == 1)
    trial.attempt(trial.dispatcher.enqueue, "pending")
    trial.attempt(trial.dispatcher.close, 0.005)


@scene("opened again")
@scene("opened again, closable sink", sink="closable")
async def opened_again(trial: Trial) -> None:
    await trial.attempt_async(trial.dispatcher.aclose(0.1))
    for _ in range(2):  # the second time, where the first was interrupted
        await trial.attempt_async(trial.dispatcher.__aenter__())
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.until(lambda: trial.sink.ended > 1)


@scene("opened again, no loop", on=THREAD)
async def opened_again_in_a_thread(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.close, 0.1)
    for _ in range(2):
        trial.attempt(trial.dispatcher.__enter__)
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.until(lambda: trial.sink.ended > 1)


@scene("drop report, drop_oldest", on_full="drop_oldest")
@scene("drop report")
async def drops(trial: Trial) -> None:
    for entry in range(12):
        trial.attempt(trial.dispatcher.enqueue, entry)
    await trial.until(lambda: bool(trial.drops) and trial.sink.ended > 1)


@scene("aenqueue waits for room", capacity=2)
async def aenqueue(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "in flight")
    await trial.until(lambda: trial.sink.running == 1)
    loop = asyncio.get_running_loop()
    enqueue = trial.dispatcher.aenqueue
    trial.tasks += [loop.create_task(enqueue(entry)) for entry in range(4)]
    await asyncio.sleep(0.002)
    trial.sink.gate.set()
    await trial.until(lambda: all(task.done() for task in trial.tasks))


@scene("dispatch_timeout", dispatch_timeout=0.004)
async def timeout(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await trial.until(lambda: trial.sink.ended > 1)
    await trial.must(
        "a call that timed out keeps its slot", lambda: not trial.sink.running
    )


@scene("failing sink", sink="suspending")
async def failing(trial: Trial) -> None:
    trial.sink.fails = True
    trial.attempt(trial.dispatcher.enqueue, "entry", trial)
    await trial.until(lambda: bool(trial.errors))


@scene("a loop's end", on=RUN, warm=False, ms_delay=20)
@scene("a loop's end, ordinary function", sink="ordinary", on=RUN, warm=False)
@scene("a loop's end, closable sink", sink="closable", on=RUN, warm=False)
async def end(trial: Trial) -> None:
    trial.attempt(trial.dispatcher.enqueue, "entry")
    await asyncio.sleep(0)
    trial.attempt(trial.dispatcher.enqueue, "pending")


@scene("a loop's end, a call in flight", sink="suspending", on=RUN, warm=False)
async def end_in_flight(trial: Trial) -> None:
    trial.sink.gate.clear()
    trial.attempt(trial.dispatcher.enqueue, "entry")
    try:
        await trial.until(lambda: trial.sink.running == 1)
    except asyncio.CancelledError:  # the loop ends, and waits for the call
        trial.sink.gate.set()
        raise
    trial.attempt(trial.dispatcher.enqueue, "pending")
    asyncio.get_running_loop().call_later(0.005, trial.sink.gate.set)
