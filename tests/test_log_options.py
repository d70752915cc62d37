"""What a `DispatchHandler` is made of, and how `dictConfig` makes it."""

from __future__ import annotations

import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Objects
from ringdispatch.logging import DispatchHandler


async def post(batch: list[Any]) -> None:
    pass


def note_drop(reason: str, count: int) -> None:
    pass


POSTING = BackgroundDispatcher[Any](post, ms_delay=1, name="posting")


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger as it was before, after the test."""
    logger = logging.getLogger("shop.orders")
    yield logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


# ---- arguments


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DispatchHandler(), TypeError, "give a dispatcher, or dispatch_func"),
        (lambda: DispatchHandler(None), TypeError, "give a dispatcher, or"),
        (
            lambda: DispatchHandler(5),
            TypeError,
            "dispatcher=5: .*, or its dotted name; ",
        ),
        (
            lambda: DispatchHandler(post),
            TypeError,
            "dispatcher=<function post at .*; to make one, give dispatch_function= and",
        ),
        (
            lambda: DispatchHandler(POSTING, ms_delay=10),
            TypeError,
            "ms_delay=10: options are for a dispatcher of the handler's making",
        ),
        (
            lambda: DispatchHandler(POSTING, dispatch_function=post),
            TypeError,
            "dispatch_function=<function post at .*>: options are for",
        ),
        (
            lambda: DispatchHandler(dispatch_function=post),
            TypeError,
            r"BackgroundDispatcher\(post\): ms_delay is missing",
        ),
        (
            lambda: DispatchHandler(dispatch_function=post, msDelay=1),
            TypeError,
            "msDelay=1: did you mean ms_delay=?",
        ),
        (
            lambda: DispatchHandler(dispatch_function=post, ms_delay=-1),
            ValueError,
            "ms_delay=-1: must be a finite number of milliseconds > 0",
        ),
        (
            lambda: DispatchHandler("no.such.dispatcher"),
            ValueError,
            "dispatcher='no.such.dispatcher': must be a dotted name, .*: No module",
        ),
        (
            lambda: DispatchHandler(dispatch_function="json.send", ms_delay=1),
            ValueError,
            "dispatch_function='json.send': must be a dotted name",
        ),
        (
            lambda: DispatchHandler("json.dumps"),
            TypeError,
            "dispatcher=<function dumps at .*>: must be a BackgroundDispatcher",
        ),
    ],
)
def test_wrong_argument_is_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
    logging.shutdown()  # which flushes all handlers that it knows


def test_level_and_options_are_taken() -> None:
    handler = DispatchHandler(
        dispatch_function=post,
        ms_delay=5,
        level="ERROR",
        capacity=7,
        layout=Objects(),
        name="lines",
    )
    assert handler.level == logging.ERROR
    assert handler.dispatcher.name == "lines"
    assert handler.dispatcher.statistics().capacity == 7
    assert DispatchHandler(POSTING).dispatcher is POSTING


# ---- dictConfig


def configured(**handler: Any) -> DispatchHandler:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"short": {"format": "%(message)s"}},
            "filters": {"shop": {"name": "shop"}},
            "handlers": {
                "ship": {"class": "ringdispatch.logging.DispatchHandler", **handler}
            },
            "loggers": {"shop.orders": {"handlers": ["ship"], "level": "INFO"}},
        }
    )
    [made] = logging.getLogger("shop.orders").handlers
    assert isinstance(made, DispatchHandler)
    return made


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file, as a module that names lead to."""
    monkeypatch.setitem(sys.modules, "shop_logging", sys.modules[__name__])


@pytest.mark.usefixtures("log", "named")
@pytest.mark.parametrize("prefix", ["", "ext://"])
def test_dictconfig_takes_names(prefix: str) -> None:
    made = configured(dispatcher=f"{prefix}shop_logging.POSTING", level="WARNING")
    assert made.dispatcher is POSTING
    assert (made.level, made.name) == (logging.WARNING, "ship")
    made = configured(
        dispatch_function=f"{prefix}shop_logging.post",
        ms_delay=20,
        on_drop=f"{prefix}shop_logging.note_drop",
        on_full="drop_oldest",
        formatter="short",
        filters=["shop"],
    )
    assert made.dispatcher.name.startswith("post")
    assert [each.name for each in made.filters if isinstance(each, logging.Filter)] == [
        "shop"
    ]
    assert made.format(logging.makeLogRecord({"msg": "a"})) == "a"


class Sink:
    async def __call__(self, batch: list[Any]) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.usefixtures("log", "named")
def test_second_configuration_wants_a_dispatcher_for_a_sink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sink has one dispatcher: so a configuration names that, not the sink."""
    sink = Sink()
    with BackgroundDispatcher(sink, ms_delay=20, name="ship") as dispatcher:
        monkeypatch.setattr(sys.modules[__name__], "sink", sink, raising=False)
        monkeypatch.setattr(sys.modules[__name__], "ship", dispatcher, raising=False)
        for _ in range(2):
            assert configured(dispatcher="shop_logging.ship").dispatcher is dispatcher
        with pytest.raises(ValueError, match="handler 'ship'") as caught:
            configured(dispatch_function="shop_logging.sink", ms_delay=20)
        assert "make a sink for each" in str(caught.value.__cause__)


@pytest.mark.usefixtures("log")
def test_dictconfig_says_what_is_wrong() -> None:
    with pytest.raises(
        ValueError, match="Unable to configure handler 'ship'"
    ) as caught:
        configured(dispatch_function="no.such", ms_delay=1)
    assert "dispatch_function='no.such'" in str(caught.value.__cause__)
