"""Checks of the constructor's options: each error names the option and its value."""

import asyncio
import functools
import inspect
import math
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from ._enqueue import POLICIES
from ._names import unique_name
from ._ring import short_repr

# How each log line and warning begins: with the library and the dispatcher's name.
LINE = "ringdispatch[%s]: %s"

OnFull: TypeAlias = Literal["drop_newest", "drop_oldest", "raise"]
HomeChoice: TypeAlias = Literal["auto", "thread"]

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def explain_arguments(init: Constructor) -> Constructor:
    """Decorate a constructor: explain the wrong arguments that newcomers give.

    Type checkers, `inspect` and the pages see the signature of `init` as it is.
    """
    kind = init.__qualname__.partition(".")[0]
    code = init.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    known = code.co_varnames[1:count]
    takes_any = bool(code.co_flags & inspect.CO_VARKEYWORDS)
    requires_delay = "ms_delay" not in (init.__kwdefaults__ or ())

    @functools.wraps(init)
    def explained(self: Any, *given: Any, **options: Any) -> None:
        if len(given) > 1:
            choices = None if takes_any else known
            raise TypeError(_explain_position(kind, given, options, choices))
        if not takes_any and (unknown := options.keys() - known):
            raise TypeError(_explain_names(sorted(unknown), options, known))
        if requires_delay and "ms_delay" not in options:
            raise TypeError(
                f"{kind}({_call_name(*given)}): ms_delay is missing: give the "
                "milliseconds from an entry to its dispatch, such as ms_delay=100"
            )
        init(self, *given, **options)
        if requires_delay and options["ms_delay"] < 1:
            message = _explain_short_delay(options["ms_delay"])
            warnings.warn(LINE % (self.name, message), stacklevel=2)

    return explained  # type: ignore[return-value]


def _call_name(function: Any = None) -> str:
    return getattr(function, "__name__", "send")


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that a newcomer's probably means."""
    from difflib import get_close_matches  # noqa: PLC0415, only for the message

    near = get_close_matches(_snake_case(str(name)), known, 1)
    return near[0] if near else None


def _explain_position(
    kind: str, given: tuple[Any, ...], options: Any, known: Iterable[str] | None
) -> str:
    value: Any = given[1]
    named: dict[Any, Any] = {}
    if isinstance(value, dict):
        named = value
    elif type(value) in (int, float):
        named = {"ms_delay": value}
    advised = {"ms_delay": 100}  # and no name that would be refused too
    for name, each in {**named, **options}.items():
        if known is None and isinstance(name, str):
            advised[_snake_case(name)] = each
        elif meant := _nearest(name, known or ()):
            advised[meant] = each
    words = ", ".join(f"{name}={short_repr(each)}" for name, each in advised.items())
    called = _call_name(given[0])
    return (
        f"{kind}({called}, {short_repr(value)}): takes one positional argument, the "
        f"dispatch function; give options by name: {kind}({called}, {words})"
    )


def _explain_names(unknown: list[str], options: Any, known: Iterable[str]) -> str:
    words = []
    for name in unknown:
        near = _nearest(name, known)
        hint = f"did you mean {near}=?" if near else "there is no such option"
        words.append(f"{name}={short_repr(options[name])}: {hint}")
    if not any("did you mean" in each for each in words):
        words.append(f"the options are {', '.join(sorted(known))}")
    return "; ".join(words)


def _explain_short_delay(value: Any) -> str:
    seconds = float(value)
    return (
        f"ms_delay={short_repr(value)}: it is in milliseconds (for {seconds:g} s give "
        f"ms_delay={seconds * 1000:g}); timers of event loops run at most once a "
        "millisecond"
    )


def _number(name: str, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={short_repr(value)}: must be {wanted}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _positive(name: str, value: Any, wanted: str) -> float:
    number = _number(name, value, wanted)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name}={short_repr(value)}: must be {wanted}")
    return number


def ms_delay(value: Any) -> float:
    """Check the delay in milliseconds; returns it in seconds.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is zero, negative, infinite or NaN.
    """
    return _positive("ms_delay", value, "a finite number of milliseconds > 0") / 1000


def dispatch_timeout(value: Any) -> float | None:
    """Check the longest duration of a dispatch in seconds.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is zero, negative, infinite or NaN.
    """
    if value is None:
        return None
    wanted = "a finite number of seconds > 0, or None (never)"
    return _positive("dispatch_timeout", value, wanted)


def timeout(value: Any) -> float | None:
    """Check the seconds that a caller will wait: >= 0, or None for ever.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is negative or NaN.
    """
    if value is None:
        return None
    wanted = "a number of seconds >= 0, or None (wait for ever)"
    number = _number("timeout", value, wanted)
    if not number >= 0:
        raise ValueError(f"timeout={short_repr(value)}: must be {wanted}")
    return None if number > threading.TIMEOUT_MAX else number  # some centuries


def count(name: str, value: Any) -> int:
    """Check an integer >= 1.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={short_repr(value)}: must be an integer >= 1")
    if value < 1:
        raise ValueError(f"{name}={short_repr(value)}: must be an integer >= 1")
    return int(value)


def capacity(value: Any) -> int:
    """Check the ring's size in entries.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1.
        MemoryError: no machine could address so many.
    """
    checked = count("capacity", value)
    if checked > sys.maxsize // 32:
        raise MemoryError(
            f"capacity={short_repr(checked)}: more than a machine can address"
        )
    return checked


def max_batch(value: Any, most: int) -> int:
    """Check the size of a batch against the capacity `most`.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1 or above the capacity.
    """
    if value is None:
        return most
    checked = count("max_batch", value)
    if checked > most:
        raise ValueError(
            f"max_batch={short_repr(checked)}: must be <= capacity={most}: "
            "a batch cannot be larger than the ring"
        )
    return checked


def choice(name: str, value: Any, known: tuple[str, ...], remedy: str = "") -> str:
    """Check that a value is one of the known words.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or value not in known:
        words = ", ".join(map(repr, known))
        raise ValueError(f"{name}={short_repr(value)}: must be one of {words}{remedy}")
    return value


def on_full(value: Any) -> str:
    """Check what is to happen to an entry when the ring is full.

    Raises:
        ValueError: it is none of the known words.
    """
    remedy = "; to wait for room, use await dispatcher.aenqueue(entry)"
    return choice("on_full", value, tuple(POLICIES), remedy)


def home(value: Any) -> str:
    """Check where a dispatcher is to live.

    Raises:
        ValueError: it is none of the known words.
    """
    return choice("home", value, get_args(HomeChoice))


def is_async(function: Any) -> bool:
    """Whether calling `function` makes a coroutine."""
    call = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def function(name: str, value: Any, *arguments: str) -> Any:
    """Check a callable that will be called with these arguments.

    Raises:
        TypeError: `value` cannot be called, or not with so many arguments.
    """
    if inspect.iscoroutine(value):
        called = value.__name__
        raise TypeError(
            f"{name}={short_repr(value)}: must be the function, not what a call of it "
            f"returned: pass {called}, not {called}(...)"
        )
    if not callable(value):
        raise TypeError(f"{name}={short_repr(value)}: must be callable")
    if signature := _signature(value):
        try:
            signature.bind(*arguments)
        except TypeError as error:
            called, taken = ", ".join(arguments), ", ".join(signature.parameters)
            raise TypeError(
                f"{name}={short_repr(value)}: must take ({called}), but takes "
                f"({taken}): {error}"
            ) from None
    return value


def _signature(value: Any) -> inspect.Signature | None:
    """What arguments a callable really takes; None where nothing can tell.

    A decorator may supply arguments that the decorated function takes: what it claims
    by `__wrapped__` or `__signature__` is not looked at.
    """
    options: dict[str, Any] = {"follow_wrapped": False}
    if sys.version_info >= (3, 14):  # annotations may name what exists only for mypy
        from annotationlib import Format  # noqa: PLC0415

        options["annotation_format"] = Format.STRING
    try:
        if hasattr(value, "__signature__"):
            return None
        return inspect.signature(value, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a builtin without one; or what the user's classes raise
        return None


def dispatch_function(value: Any) -> Any:
    """Check the dispatch function.

    Raises:
        TypeError: `value` cannot be called with a batch, makes a generator, or is a
            class of callable objects.
    """
    if inspect.isclass(value) and "__call__" in dir(value):
        raise TypeError(
            f"dispatch_function={short_repr(value)}: must be an object, not its class: "
            f"write {value.__name__}(...)"
        )
    function("dispatch_function", value, "batch")
    call = getattr(type(value), "__call__", None)  # noqa: B004
    for each in (value, call):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(
                f"dispatch_function={short_repr(value)}: must be a plain or async "
                "function, not a generator"
            )
    return value


def layout(value: Any) -> Any:
    """Check a layout.

    Raises:
        TypeError: `value` is no layout.
    """
    if hasattr(value, "make_ring") and not isinstance(value, type):
        return value
    wanted = "must be a layout, such as Objects()"
    if hasattr(value, "make_ring"):
        wanted += f", not its class: write {value.__name__}(...)"
    raise TypeError(f"layout={short_repr(value)}: {wanted}")


def hook(name: str, value: Any, *arguments: str) -> Any:
    """Check a plain callable that takes these arguments, or None.

    Raises:
        TypeError: `value` cannot be called so, or is async.
    """
    if value is None:
        return None
    if is_async(function(name, value, *arguments)):
        raise TypeError(
            f"{name}={short_repr(value)}: must be a plain function, not async: "
            "hooks are not awaited; start a task in it instead"
        )
    return value


def name(value: Any, function: Any) -> str:
    """Check the name; None: that of the function, or of a partial's function.

    Raises:
        TypeError: `value` is not a string.
    """
    if value is None:
        while isinstance(function, functools.partial):
            function = function.func
        return getattr(function, "__qualname__", type(function).__qualname__)
    if not isinstance(value, str):
        raise TypeError(f"name={short_repr(value)}: must be a string")
    return value


def on_loop(call: str) -> None:
    """Check that an asyncio loop runs here, which an asynchronous call needs.

    Raises:
        RuntimeError: none does.
    """
    if asyncio._get_running_loop() is None:
        name = call.removeprefix("a")
        trio = f"; under trio, await trio.to_thread.run_sync({name})"
        way = f"{name}()" if name == "enqueue" else f"{name}(){trio}"
        raise RuntimeError(f"{call}() needs a running asyncio loop: else call {way}")


def off_home(home: Any, call: str) -> None:
    """Check that a call that blocks is not on the home's own thread.

    Raises:
        RuntimeError: it is.
    """
    if home is not None and home.here:
        raise RuntimeError(
            f"{call}() would block the loop that dispatches: await a{call}() instead"
        )


def plain_with(batcher: Any, loop: object) -> None:
    """Check that the end of `with` will not block the loop that dispatches.

    `loop` is the one that runs here: the first entry would make it the home, unless
    the batcher lives elsewhere.

    Raises:
        RuntimeError: it would.
    """
    home = batcher.home
    moves = home is None or home.stalled or home.background
    comes_here = loop is not None and moves and not batcher.options.prefers_thread
    if comes_here or (home is not None and home.here):
        raise RuntimeError(
            "the end of `with` would block the loop that dispatches: use `async with`"
        )


class Options:
    """The constructor's options, checked, and in the units of the engine."""

    def __init__(self, function: Any, /, **given: Any) -> None:
        self.function = dispatch_function(function)
        self.is_async = is_async(function)
        self.capacity = capacity(given["capacity"])
        self.max_batch = max_batch(given["max_batch"], self.capacity)
        self.delay = ms_delay(given["ms_delay"])  # in seconds
        in_flight = count("max_in_flight", given["max_in_flight"])
        self.max_in_flight = min(in_flight, sys.maxsize)
        self.dispatch_timeout = dispatch_timeout(given["dispatch_timeout"])
        self.on_full = on_full(given["on_full"])
        self.prefers_thread = home(given["home"]) == "thread"
        self.name = name(given["name"], function)
        self.on_error = hook("on_error", given["on_error"], "exception", "batch")
        self.on_drop = hook("on_drop", given["on_drop"], "reason", "count")
        self.layout = layout(given["layout"])

    def make_ring(self) -> Any:
        """Make a ring of this layout and size.

        Raises:
            MemoryError: no memory for `capacity` entries.
            ValueError, OSError: the layout's spool refuses an option, or its place.
        """
        sizes = self.capacity, self.max_batch, self.max_in_flight
        return self.layout.make_ring(*sizes, self.name, self.on_full)

    def name_for(self, owner: object) -> str:
        """The given name, or the function's, and a number where it is not alone."""
        return unique_name(self.name, owner)
