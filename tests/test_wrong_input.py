"""What newcomers give, and which words send them the right way."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import sys
import threading
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records
from ringdispatch.testing import RecordingDispatcher


async def send(batch: list[Any]) -> None:
    pass


async def send_to(batch: list[Any], client: Any) -> None:
    pass


def nothing() -> None:
    pass


class Sink:
    async def send(self, batch: list[Any]) -> None:
        pass

    async def __call__(self) -> None:
        pass


def annotated(parameters: str) -> Any:
    """A function whose annotations exist for type checkers only."""
    quoted = "annotations" if sys.version_info < (3, 14) else "generators"
    code = f"from __future__ import {quoted}\ndef function({parameters}): pass"
    scope: dict[str, Any] = {}
    exec(compile(code, "annotated", "exec", dont_inherit=True), scope)
    return scope["function"]


coroutine = send([])
coroutine.close()


def row(words: str, *given: Any, **options: Any) -> Any:
    return pytest.param(given, options, words, id=words[:40])


def positional(written: str, *given: Any, **options: Any) -> Any:
    written = re.escape(f"BackgroundDispatcher({written})")
    words = f"takes one positional argument.*; give options by name: {written}$"
    return pytest.param(given, options, words, id=written)


class Closing:
    """A sink whose methods are of the other kind."""

    def __call__(self, batch: list[Any]) -> None:
        pass

    def aclose(self) -> None:
        pass


class Preparing(Closing):
    async def aclose(self) -> None:  # type: ignore[override]
        pass

    async def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        pass


MISTAKES = [
    # sinks
    row(r": must be an object, not its class: write Sink\(\.\.\.\)$", Sink, ms_delay=9),
    row(
        r"^dispatch_function=<.*Closing .*>: its aclose must be a coroutine method",
        *(Closing(),),
        ms_delay=9,
    ),
    row(
        r"^dispatch_function=<.*>: its prepare must be an ordinary method",
        *(Preparing(),),
        ms_delay=9,
    ),
    # options without their names
    row(r"^BackgroundDispatcher\(send, 100\): takes one", send, 100),
    positional("send, ms_delay=100", send, 100),
    positional("send, ms_delay=0.5", send, 0.5, 9),
    positional("send, ms_delay=100", send, None),
    positional("send, ms_delay=5", send, 9, ms_delay=5),
    positional("send, ms_delay=100", send, {"msDelay": 100}),
    positional(
        "send, ms_delay=9, max_batch=5, on_full='raise'",
        *(send, {"msDelay": 9, "max_batch": 5}),
        onFull="raise",
    ),
    positional("send, ms_delay=100", send, {"delay": 100}),
    positional("send, ms_delay=100", send, {1: 2, "retries": 3}),
    positional("send, ms_delay=100, max_batch=5", send, {"maxBatch": 5}),
    positional("send, ms_delay=9", functools.partial(send_to, client=1), 9),
    # names of another spelling, or of another library
    row(r"^msDelay=100: did you mean ms_delay=\?$", send, msDelay=100),
    *(
        row(rf"^{given}=5: did you mean {meant}=\?$", send, **{"ms_delay": 9, given: 5})
        for given, meant in {
            "maxBatch": "max_batch",
            "maxInFlight": "max_in_flight",
            "dispatchTimeout": "dispatch_timeout",
            "onFull": "on_full",
            "onError": "on_error",
            "onDrop": "on_drop",
            "delay": "ms_delay",
            "delay_ms": "ms_delay",
            "max_batch_size": "max_batch",
            "timeout": "dispatch_timeout",
        }.items()
    ),
    row(
        r"^maxBatch=5: did you mean max_batch=\?; onDrop=.*: did you mean on_drop=\?$",
        *(send,),
        ms_delay=10,
        maxBatch=5,
        onDrop=print,
    ),
    row(
        "^retries=3: there is no such option; the options are capacity, .*, on_full$",
        *(send,),
        ms_delay=10,
        retries=3,
    ),
    row(r"\(send\): ms_delay is missing: .*milliseconds.*=100$", send),
    # functions
    row(r"^dispatch_function=.*pass send, not send\(\.\.\.\)$", coroutine, ms_delay=10),
    row(r"^on_error=.*pass send, not send\(", send, ms_delay=10, on_error=coroutine),
    *(
        row(
            rf"^dispatch_function=.* must take \(batch\), but takes \({taken}\): ",
            function,
            ms_delay=10,
        )
        for function, taken in (
            (nothing, ""),
            (send_to, "batch, client"),
            (Sink.send, "self, batch"),
            (Sink(), ""),
            (functools.partial(send, []), ""),
            (annotated("batch: Undefined, client: Undefined"), "batch, client"),
        )
    ),
    *(
        row(
            rf"^{hook}=.* must take \({wanted}\), but takes \({taken}\): ",
            send,
            **{"ms_delay": 10, hook: function},
        )
        for hook, wanted in (
            ("on_error", "exception, batch"),
            ("on_drop", "reason, count"),
        )
        for function, taken in (
            (nothing, ""),
            (lambda error: None, "error"),
            (lambda a, b, c: None, "a, b, c"),
            (lambda a, b, *, c: None, "a, b, c"),
        )
    ),
    # values
    *(
        row(
            rf"^layout=.*not its class: write {layout.__name__}\(\.\.\.\)$",
            send,
            ms_delay=10,
            layout=layout,
        )
        for layout in (Objects, Records, Bytes)
    ),
    row(
        "^on_full='block': .*, 'raise'; .*aenqueue", send, ms_delay=10, on_full="block"
    ),
]


@pytest.mark.parametrize(("given", "options", "words"), MISTAKES)
def test_mistake_is_refused_by_words_that_name_the_way_out(
    given: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:  # C12
    error = ValueError if "on_full" in options else TypeError
    with pytest.raises(error, match=words):
        BackgroundDispatcher(*given, **options)


@pytest.mark.parametrize("option", ["on_full", "home"])
def test_words_of_an_option_are_those_that_type_checkers_know(option: str) -> None:
    hints = typing.get_type_hints(BackgroundDispatcher.__init__)
    words = typing.get_args(hints[option])
    assert len(words) > 1
    for word in words:
        options: Any = {option: word}
        assert BackgroundDispatcher(send, ms_delay=10, **options).close()
    named = ", ".join(map(repr, words))
    with pytest.raises(ValueError, match=f"must be one of {named}(;|$)"):
        BackgroundDispatcher(send, ms_delay=10, **{option: "other"})


class Unprintable:
    """Its repr runs what is being cancelled."""

    def __repr__(self) -> str:
        raise asyncio.CancelledError


def test_value_whose_repr_is_cancelled_is_refused_by_name() -> None:  # C12
    words = r"^ms_delay=<Unprintable: CancelledError in its repr>: must be "
    with pytest.raises(TypeError, match=words):
        BackgroundDispatcher(send, ms_delay=Unprintable())  # type: ignore[arg-type]


class Wrapped:
    """A decorator that supplies an argument, as frameworks and mocks do."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, *given: Any) -> Any:
        return None


def supplied(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def call(*given: Any) -> Any:
        return function(*given, "client")

    return call


class Unsigned:
    @property
    def __signature__(self) -> Any:
        raise asyncio.CancelledError

    def __call__(self, batch: list[Any]) -> None:
        pass


def signed(function: Callable[..., Any]) -> Any:
    call = supplied(function)
    call.__signature__ = inspect.signature(function)
    return call


@pytest.mark.parametrize(
    "function",
    [
        [].extend,
        {}.update,
        print,
        lambda *given: None,
        lambda batch, retries=3: None,
        functools.partial(send_to, client=1),
        Sink().send,
        supplied(send_to),
        signed(send_to),
        Wrapped(send_to),
        Unsigned(),
        annotated("batch: Undefined"),
        list,
    ],
)
def test_function_that_can_take_a_batch_is_accepted(function: Any) -> None:
    assert BackgroundDispatcher(function, ms_delay=10).close()


def test_hooks_whose_arguments_nothing_can_know_are_accepted() -> None:
    hooks: tuple[Any, ...] = (print, logging.error, lambda *given: None, {}.update)
    for hook in hooks:
        options: dict[str, Any] = {"on_error": hook, "on_drop": hook}
        assert BackgroundDispatcher(send, ms_delay=10, **options).close()


def test_the_signature_is_that_of_the_page() -> None:
    for seen in (BackgroundDispatcher, BackgroundDispatcher.__init__):
        parameters = list(inspect.signature(seen).parameters.values())
        named = [each for each in parameters if each.name != "self"]
        assert [each.name for each in named[:2]] == ["dispatch_function", "ms_delay"]
        assert {each.kind for each in named[1:]} == {inspect.Parameter.KEYWORD_ONLY}
        assert named[1].default is inspect.Parameter.empty


# ---- a delay in seconds


class Subclass(BackgroundDispatcher[Any]):
    pass


@pytest.mark.parametrize("kind", [BackgroundDispatcher, Subclass])
@pytest.mark.parametrize(("value", "meant"), [(0.1, "100"), (0.0005, "0.5")])
def test_delay_below_a_millisecond_warns_of_its_unit(
    kind: type, value: float, meant: str
) -> None:
    with pytest.warns(UserWarning, match="milliseconds") as caught:
        dispatcher = kind(send, ms_delay=value, name="short")
    (warning,) = caught
    assert warning.filename == __file__
    line = Path(__file__).read_text().splitlines()[warning.lineno - 1]
    assert "kind(send, ms_delay=value" in line
    text = str(warning.message)
    assert text.startswith(f"ringdispatch[short]: ms_delay={value}: ")
    assert f"for {value:g} s give ms_delay={meant})" in text
    assert "at most once a millisecond" in text
    assert dispatcher.close()


def test_delay_of_a_millisecond_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BackgroundDispatcher(send, ms_delay=1).close()


# ---- `with` where `async with` is meant


def test_with_in_a_coroutine_is_refused_at_its_entry() -> None:
    dispatcher = BackgroundDispatcher(send, ms_delay=1)

    async def enter() -> None:
        with pytest.raises(RuntimeError, match="use `async with`"):
            dispatcher.__enter__()

    async def main() -> None:
        await enter()  # nothing was enqueued yet
        dispatcher.enqueue("a")
        await enter()  # it lives on this loop
        assert await dispatcher.aflush()

    asyncio.run(main())
    asyncio.run(enter())  # its loop is closed: it would come to this one
    dispatcher.enqueue("a")
    asyncio.run(enter())  # the background thread would give way to this loop
    assert not dispatcher.closed
    assert dispatcher.close()


def test_with_is_right_where_it_blocks_no_loop_that_dispatches() -> None:
    got: list[Any] = []

    def in_a_thread() -> None:
        with BackgroundDispatcher(got.extend, ms_delay=1) as dispatcher:
            dispatcher.enqueue("a")
        assert dispatcher.closed

    async def main() -> None:
        await asyncio.to_thread(in_a_thread)
        with BackgroundDispatcher(got.extend, ms_delay=1, home="thread") as lasting:
            lasting.enqueue("b")
        assert lasting.closed

        # It lives on another loop, which runs.
        other = BackgroundDispatcher(got.extend, ms_delay=1)
        ready, done = threading.Event(), threading.Event()

        async def elsewhere() -> None:
            other.enqueue("c")
            ready.set()
            assert await asyncio.to_thread(done.wait, 10)

        thread = threading.Thread(target=asyncio.run, args=[elsewhere()])
        thread.start()
        assert await asyncio.to_thread(ready.wait, 10)
        with other:
            other.enqueue("d")
        assert other.closed
        done.set()
        await asyncio.to_thread(thread.join)

    in_a_thread()
    asyncio.run(main())
    assert got == ["a", "a", "b", "c", "d"]


# ---- contexts as in JavaScript


def test_a_context_may_spell_it_as_javascript_does() -> None:
    class Context:
        def __init__(self) -> None:
            self.awaitables: list[Any] = []

        def waitUntil(self, awaitable: Any) -> None:  # noqa: N802
            self.awaitables.append(awaitable)

    class Both(Context):
        def wait_until(self, awaitable: Any) -> None:
            self.awaitables += [awaitable, "wait_until"]

    async def main() -> None:
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        context, both = Context(), Both()
        dispatcher.enqueue("a", context)
        (awaitable,) = context.awaitables
        assert await asyncio.wait_for(awaitable, 10) is None
        assert dispatcher.statistics().dispatched == 1
        dispatcher.enqueue("b", both)
        assert await dispatcher.aclose()
        assert both.awaitables[1:] == ["wait_until"]

    asyncio.run(main())


# ---- what stands in for a dispatcher in tests


def test_recording_dispatcher_refuses_the_same_by_the_same_words() -> None:
    with pytest.raises(TypeError, match=r"RecordingDispatcher\(send, ms_delay=9\)"):
        RecordingDispatcher(send, 9)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"r\(send, ms_delay=100, max_batch=9\)"):
        RecordingDispatcher(send, {"maxBatch": 9})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"maxBatch=9: did you mean max_batch=\?"):
        RecordingDispatcher(send, maxBatch=9)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="ms_delay=0: must be"):
        RecordingDispatcher(send, ms_delay=0)
    assert RecordingDispatcher(send, ms_delay=0.1).close()
