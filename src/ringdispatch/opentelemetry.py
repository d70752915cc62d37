"""Metrics of every dispatcher for OpenTelemetry, by its API alone."""

from collections.abc import Callable, Iterable
from functools import partial

from ._dispatcher import dispatchers
from ._metrics import METRICS, Metric
from ._ring import short_repr
from ._statistics import Statistics

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        MeterProvider,
        Observation,
        get_meter,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ringdispatch.opentelemetry needs opentelemetry-api: "
        "pip install 'ringdispatch[opentelemetry]'",
        name=error.name,
    ) from error

__all__ = ["instrument"]


class _Snapshots:
    """One snapshot of each dispatcher for all instruments of a collection.

    An instrument that asks again begins the next one.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, Statistics]] = []
        self._served: set[str] | None = None

    def for_instrument(self, name: str) -> list[tuple[str, Statistics]]:
        if self._served is None or name in self._served:
            self._seen = [(each.name, each.statistics()) for each in dispatchers()]
            self._served = set()
        self._served.add(name)
        return self._seen


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Have a meter provider observe every dispatcher that lives, under its name.

    Each collection reads one consistent snapshot of each. Call it once for a provider:
    instruments can't be taken back.

    Args:
        meter_provider: Where to make the instruments; None: the global one.

    Raises:
        TypeError: no meter provider.
    """
    if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
        raise TypeError(
            f"meter_provider={short_repr(meter_provider)}: must be a MeterProvider of "
            "opentelemetry, or None"
        )
    from . import __version__  # noqa: PLC0415, read from the metadata on first use

    meter = get_meter("ringdispatch", __version__, meter_provider)
    snapshots = _Snapshots()
    create: dict[str, Callable[..., object]] = {
        "counter": meter.create_observable_counter,
        "level": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for metric in METRICS:
        create[metric.kind](
            f"ringdispatch.{metric.name}",
            [partial(_observe, metric, snapshots)],
            metric.unit,
            metric.about,
        )


def _observe(
    metric: Metric, snapshots: _Snapshots, _: CallbackOptions
) -> Iterable[Observation]:
    for name, statistics in snapshots.for_instrument(metric.name):
        for own, value in metric.read(statistics).items():
            attributes = {"dispatcher": name}
            if own is not None and metric.label is not None:
                attributes[metric.label] = own
            yield Observation(value, attributes)
