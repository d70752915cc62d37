"""Metrics of every dispatcher for Prometheus, by `prometheus_client`."""

from collections.abc import Iterator

from ._dispatcher import dispatchers
from ._metrics import METRICS, Metric
from ._ring import short_repr

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ringdispatch.prometheus needs prometheus_client: "
        "pip install 'ringdispatch[prometheus]'",
        name=error.name,
    ) from error

__all__ = ["DispatcherCollector", "register"]

_UNITS = {"s": "_seconds", "By": "_bytes"}

_Family = CounterMetricFamily | GaugeMetricFamily


class DispatcherCollector(Collector):
    """Reads every dispatcher that lives, once a scrape; `register` makes one."""

    def collect(self) -> Iterator[_Family]:
        """Yield the metrics, of one snapshot of each dispatcher."""
        seen = [(each.name, each.statistics()) for each in dispatchers()]
        for metric in METRICS:
            family = _family(metric)
            for name, statistics in seen:
                for own, value in metric.read(statistics).items():
                    family.add_metric([name] if own is None else [name, own], value)
            yield family

    def describe(self) -> Iterator[_Family]:
        """Yield the metrics without values: a registry asks for their names."""
        return map(_family, METRICS)


def _family(metric: Metric) -> _Family:
    name = f"ringdispatch_{metric.name.replace('.', '_')}{_UNITS.get(metric.unit, '')}"
    counter = metric.kind == "counter"
    kind = CounterMetricFamily if counter else GaugeMetricFamily
    labels = ["dispatcher"] if metric.label is None else ["dispatcher", metric.label]
    return kind(name, f"{metric.about}.", labels=labels)


def register(registry: CollectorRegistry = REGISTRY) -> DispatcherCollector:
    """Have a registry show every dispatcher that lives, under its name.

    Each scrape reads one consistent snapshot of each.

    Args:
        registry: Where to register; prometheus_client's own by default.

    Returns:
        What was registered, for `registry.unregister`.

    Raises:
        TypeError: no registry.
        ValueError: the registry has these metrics already.
    """
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(
            f"registry={short_repr(registry)}: must be a CollectorRegistry of "
            "prometheus_client"
        )
    collector = DispatcherCollector()
    registry.register(collector)
    return collector
