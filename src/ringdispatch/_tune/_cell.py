"""Measures one setting: a dispatcher under load on a schedule.

    python -m ringdispatch._tune._cell '{"setting": {...}, "seed": 1, ...}'

prints the figures as JSON. Each cell runs in a process of its own: it shares neither
processor time nor memory with another, and none warms up another.
"""

import asyncio
import gc
import itertools
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ringdispatch import BackgroundDispatcher, Statistics
from ringdispatch._load import one_line
from ringdispatch._options import is_async

from ._apart import OnProgress, answer, run_apart, take_order
from ._entries import (
    CellError,
    Entries,
    default_entries,
    load_entries,
    load_function,
    make_layout,
    not_made,
)
from ._load import Load, moments
from ._model import most_pending
from ._probes import Requests, StallSelector, resident, trim_memory
from ._recording import LATE, Ages, CallRecorder, Recorded, percentile
from ._results import Measured, Setting

# Entries in each batch of the warm-up: too few to change memory.
_WARM_UP_ENTRIES = 100
_WARM_UP_BATCHES = 3
# Seconds, beyond the delay, for the entries that are pending when the load ends.
DRAIN_SECONDS = 10.0
# Seconds to measure the cost of the probes alone.
_PROBE_SECONDS = 0.25
# What is noted of a call: a pair, a float and an integer.
_CALL_BYTES = sum(map(sys.getsizeof, ((0.0, 0), 0.0, 1 << 20)))
# About how many ages percentiles are taken of; of fewer entries, all.
_MOST_AGES = 200_000
# Seconds in which a process starts, warms up and ends; for progress bars.
_OTHER_SECONDS = 0.7

DispatchFunction = Callable[[Any], object]


class _Recorder:
    """Calls the dispatch function, and notes when each call began, and its time."""

    def __init__(self, function: DispatchFunction) -> None:
        self.calls: list[tuple[float, int]] = []
        self.times = CallRecorder()
        self.error: BaseException | None = None
        self._function = function
        # An ordinary function must be wrapped in one, to run in a worker thread.
        self.function = self._await if is_async(function) else self._call

    def _call(self, batch: Any) -> Any:
        self.calls.append((time.perf_counter(), len(batch)))
        return self.times.call(self._function, batch)

    async def _await(self, batch: Any) -> None:
        self.calls.append((time.perf_counter(), len(batch)))
        await self.times.await_(self._function, batch)

    def failed(self, error: BaseException, batch: Any) -> None:
        """Keep the first exception."""
        del batch
        self.error = self.error or error

    @property
    def noted_bytes(self) -> int:
        """The size of its own notes, in bytes."""
        calls = sys.getsizeof(self.calls) + len(self.calls) * _CALL_BYTES
        return calls + self.times.noted_bytes

    def check(self, seen: Statistics) -> None:
        """Raise what the dispatch function raised, if it failed in every call."""
        if self.error is not None and _all_failed(seen):
            raise CellError(
                f"the dispatch function raised {one_line(self.error)} in every call "
                f"(calls so far: {seen.batches}); check that it works, or try --dry"
            )


def stand_in(milliseconds: float) -> DispatchFunction:
    """Return a dispatch function that takes so long, and does nothing."""

    async def dispatch(batch: Any) -> None:
        del batch
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000)

    return dispatch


def measure(
    setting: Setting,
    *,
    seed: int,
    function: DispatchFunction | None = None,
    entries: Entries | None = None,
    arrivals: "array[float] | None" = None,
) -> Measured:
    """Measure one setting in this process, on a loop of its own.

    Args:
        setting: What to measure.
        seed: Of everything random.
        function: The dispatch function. None: a stand-in that takes `setting.sink`.
        entries: Makes an endless iterator of entries. None: of four fields.
        arrivals: When entries arrive, seconds from the start; the setting has their
            rate. None: drawn.

    Raises:
        CellError: it can't be measured.
    """
    selector = StallSelector()
    function = function or stand_in(setting.sink or 0.0)
    cell = _Cell(setting, seed, function, entries, arrivals)
    with (
        Requests() as requests,
        asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selector)
        ) as runner,
    ):
        return runner.run(cell.run(selector, requests))


class _Cell:
    def __init__(
        self,
        setting: Setting,
        seed: int,
        function: DispatchFunction,
        entries: Entries | None,
        arrivals: "array[float] | None",
    ) -> None:
        self.setting = setting
        self.seed = seed
        self.function = function
        self.arrivals = arrivals
        self.entries = entries or default_entries(setting.layout)
        self.own = self.entries is not default_entries(setting.layout)

    async def run(self, selector: StallSelector, requests: Requests) -> Measured:
        """Offer the load on the running loop, and measure."""
        setting = self.setting
        stream = self._stream()
        samples = [*itertools.islice(stream, _WARM_UP_ENTRIES)]
        room = most_pending(setting)
        layout = make_layout(setting.layout, room, samples, own=self.own)
        load = Load(setting.rate, setting.seconds, self.seed, self.arrivals)
        await self._warm_up(layout, stream)
        gc.collect()
        trim_memory()  # before the probes, which allocate what a loop needs anyway
        idle = await self._probes_alone(requests)
        before = resident()
        recorder = _Recorder(self.function)
        dispatcher = self._dispatcher(recorder, layout)
        selector.restart()
        cpu = time.process_time()
        serving = asyncio.create_task(requests.serve(setting.seconds, self.seed + 1))
        await self._offer(load, dispatcher, stream)
        await serving
        await _drain(dispatcher, setting.delay)
        cpu = time.process_time() - cpu - idle * setting.seconds
        stall = selector.longest
        peak = max(requests.peak_resident, resident())
        seen = dispatcher.statistics()
        recorder.check(seen)
        notes = (load, requests, recorder)
        calls = recorder.calls
        batches, handed = len(calls), sum(count for _, count in calls)
        ages, oldest, step = _ages(load, calls)
        return Measured(
            rate=load.reached,
            held=load.held(sum(ages) / max(1, len(ages))),
            batches=batches,
            entries_per_batch=handed / max(1, batches),
            calls_per_second=_frequency(calls, setting.seconds),
            age_p50=1e3 * percentile(ages, 50),
            age_p99=1e3 * percentile(ages, 99),
            age_max=1e3 * max(oldest, default=0.0),
            stall_max=1e3 * stall,
            request_p99=1e3 * percentile(sorted(requests.took), 99),
            cpu_seconds_per_million=1e6 * max(cpu, 0.0) / max(1, handed),
            sink_mean=1e3 * seen.dispatch_seconds_total / max(1, batches),
            peak_pending=seen.peak_pending,
            rss_growth=max(0, peak - before - sum(one.noted_bytes for one in notes)),
            dropped=_dropped(seen),
            sink_max=recorder.times.slowest,
            slow_calls=sum(1e3 * one > setting.delay + LATE for one in oldest),
            recorded=Recorded(
                recorder.times.calls(), Ages.of((1e3 * age for age in ages), step)
            ),
            failed=seen.failed_batches,
            lost=seen.failed,
            failure=one_line(recorder.error) if recorder.error else "",
            # A moment shorter than the delay would have no opener's age.
            moments=moments(load, calls, 2e-3 * setting.delay)
            if self.arrivals is not None
            else [],
        )

    def _stream(self) -> Iterator[Any]:
        stream = self.entries()
        try:
            first = next(stream)
        except (CellError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise not_made(error) from None
        return itertools.chain([first], stream)

    def _dispatcher(
        self, recorder: _Recorder, layout: Any, delay: float | None = None
    ) -> BackgroundDispatcher[Any]:
        setting = self.setting
        dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
            recorder.function,
            ms_delay=setting.delay if delay is None else delay,
            layout=layout,
            capacity=setting.capacity,
            max_batch=setting.max_batch,
            max_in_flight=setting.max_in_flight,
            on_error=recorder.failed,
            name="cell",
        )
        dispatcher.bind()
        return dispatcher

    async def _warm_up(self, layout: Any, stream: Iterator[Any]) -> None:
        """Let the interpreter specialise, and the user's client connect."""
        recorder = _Recorder(self.function)
        dispatcher = self._dispatcher(recorder, layout, delay=1.0)
        count = min(_WARM_UP_ENTRIES, self.setting.capacity)
        for _ in range(_WARM_UP_BATCHES):
            for entry in itertools.islice(stream, count):
                self._try(dispatcher, entry)
            await dispatcher.aflush(None)
        recorder.check(dispatcher.statistics())
        await dispatcher.aclose()

    def _try(self, dispatcher: BackgroundDispatcher[Any], entry: Any) -> None:
        try:
            dispatcher.enqueue(entry)
        except Exception as error:
            raise CellError(
                f"enqueueing the entry {entry!r:.80} raised {one_line(error)}"
            ) from None

    async def _offer(
        self, load: Load, dispatcher: BackgroundDispatcher[Any], stream: Iterator[Any]
    ) -> None:
        try:
            await load.offer(dispatcher.enqueue, stream)
        except CellError:
            raise
        except Exception as error:
            like = (
                f"; the first {_WARM_UP_ENTRIES} entries set the type of each column: "
                "where one has floats, write 1.0, not 1"
                if self.setting.layout == "records"
                else ""
            )
            raise CellError(
                f"enqueueing an entry under load raised {one_line(error)}{like}"
            ) from None

    async def _probes_alone(self, requests: Requests) -> float:
        """Seconds of processor time that the probes take in a second."""
        cpu = time.process_time()
        await requests.serve(_PROBE_SECONDS, self.seed)
        return (time.process_time() - cpu) / _PROBE_SECONDS


async def _drain(dispatcher: BackgroundDispatcher[Any], delay: float) -> None:
    """Let the last windows end by themselves, so that no batch is cut short."""
    deadline = time.perf_counter() + delay / 1000 + DRAIN_SECONDS
    while True:
        seen = dispatcher.statistics()
        if not (seen.pending or seen.in_flight) or _all_failed(seen):
            break
        if time.perf_counter() > deadline:
            raise CellError(
                f"a call did not end within {DRAIN_SECONDS:g} s after the load; "
                f"entries in calls: {seen.in_flight:,}, pending: {seen.pending:,}; "
                "make calls shorter, or try --dry"
            )
        await asyncio.sleep(0.02)
    await dispatcher.aclose(0.0)


def _all_failed(seen: Statistics) -> bool:
    """Whether no call has ended well, or still may."""
    return seen.batches == seen.failed_batches > 0


def _dropped(seen: Statistics) -> int:
    """Entries that no call received."""
    return seen.rejected_full + seen.rejected_oversized + seen.evicted + seen.abandoned


def _frequency(calls: list[tuple[float, int]], seconds: float) -> float:
    """Calls a second: from the first to the last, so that no part of a cycle counts."""
    if len(calls) < 2:
        return len(calls) / seconds
    return (len(calls) - 1) / (calls[-1][0] - calls[0][0])


def _ages(
    load: Load, calls: list[tuple[float, int]]
) -> tuple[list[float], list[float], int]:
    """Ages of entries when their call began, in seconds, ascending.

    Of very many entries a sample. The oldest of a batch is its first.

    Returns:
        The ages; that of the oldest of each batch; for how many entries an age stands.
    """
    arrived = load.arrivals()
    step = max(1, len(arrived) // _MOST_AGES)
    ages: list[float] = []
    oldest: list[float] = []
    first = 0
    for moment, count in calls:
        now = moment - load.began
        oldest.append(now - arrived[first])
        begin = first + -first % step
        ages += [now - one for one in arrived[begin : first + count : step]]
        first += count
    return sorted(ages), oldest, step


# ---- in a process of its own


def expected_seconds(setting: Setting) -> float:
    """How long a measurement takes, with all that is not load."""
    return setting.seconds + setting.delay / 1000 + _OTHER_SECONDS


def measure_apart(
    setting: Setting,
    *,
    seed: int,
    target: str | None = None,
    entry: str | None = None,
    arrivals: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Measured:
    """Measure one setting in a fresh process.

    Args:
        setting: What to measure.
        seed: Of everything random.
        target: The dispatch function, as "package.module:name". None: that of the
            setting, else a stand-in that takes `setting.sink`.
        entry: The entries: "package.module:factory", or a file of JSON
            samples. None: dicts of four fields.
        arrivals: A file of when entries arrive, as `array("d")` writes it. None: drawn.
        on_progress: Called with the share of the time that has passed.

    Raises:
        CellError: it can't be measured.
    """
    order = {
        "setting": asdict(setting),
        "seed": seed,
        "target": target or setting.function,
        "entry": entry,
        "arrivals": arrivals and str(arrivals),
    }
    expected = expected_seconds(setting)
    ended = run_apart("ringdispatch._tune._cell", order, expected, on_progress)
    if not ended.lines:
        raise CellError(
            f"the measuring process died: {ended.why()}; check that the dispatch "
            "function does not end it, or try --dry"
        )
    found = ended.lines[-1]
    if "error" in found:
        raise CellError(found["error"])
    return Measured.read(found)


def _arrivals(path: str | None) -> "array[float] | None":
    return array("d", Path(path).read_bytes()) if path else None


def _main() -> None:
    order, answers = take_order()
    setting = Setting(**order["setting"])
    try:
        target, entry = order["target"], order["entry"]
        measured = measure(
            setting,
            seed=order["seed"],
            function=load_function(target) if target else None,
            entries=load_entries(entry, setting.layout) if entry else None,
            arrivals=_arrivals(order["arrivals"]),
        )
    except (CellError, ImportError) as error:
        answer(answers, {"error": str(error)})
    else:
        answer(answers, asdict(measured))
    os._exit(0)  # no teardown: the user's module may have started anything


if __name__ == "__main__":
    _main()
