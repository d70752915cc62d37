"""What Prometheus and OpenTelemetry are shown of every dispatcher."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Bytes
from serving import DIRECT
from subprocesses import run_snippet

prometheus_client = pytest.importorskip("prometheus_client")

import ringdispatch.prometheus  # noqa: E402, needs prometheus_client

pytestmark = pytest.mark.usefixtures("no_others")

Sending = BackgroundDispatcher[Any]
Samples = dict[tuple[str, str, str], float]  # name, dispatcher, reason or outcome

NAMES = {
    "ringdispatch_entries_accepted_total",
    "ringdispatch_entries_dispatched_total",
    "ringdispatch_entries_failed_total",
    "ringdispatch_entries_dropped_total",
    "ringdispatch_entries_left_total",
    "ringdispatch_entries_recovered_total",
    "ringdispatch_entries_kept_total",
    "ringdispatch_entries_kept_dropped_total",
    "ringdispatch_batches_total",
    "ringdispatch_dispatch_seconds_total",
    "ringdispatch_entries_pending",
    "ringdispatch_entries_in_flight",
    "ringdispatch_entries_capacity",
    "ringdispatch_oldest_entry_age_seconds",
    "ringdispatch_pending_bytes",
    "ringdispatch_capacity_bytes",
}
REASONS = {
    *("evicted", "abandoned"),
    *("rejected_full", "rejected_closed", "rejected_oversized"),
}


async def post(batch: list[Any]) -> None:
    pass


@pytest.fixture
def registry() -> Any:
    registry = prometheus_client.CollectorRegistry()
    ringdispatch.prometheus.register(registry)
    return registry


def scraped(registry: Any) -> Samples:
    found: Samples = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = dict(sample.labels)
            of = labels.pop("dispatcher")
            key = (sample.name, of, next(iter(labels.values()), ""))
            assert key not in found
            found[key] = sample.value
    return found


def left_over(samples: Samples, name: str) -> float:
    """Accepted entries that no other metric accounts for."""

    def of(metric: str, own: str = "") -> float:
        return samples[f"ringdispatch_entries_{metric}", name, own]

    dropped = sum(of("dropped_total", reason) for reason in ("evicted", "abandoned"))
    settled = of("dispatched_total") + of("failed_total") + dropped
    settled += of("left_total")
    return of("accepted_total") - settled - of("pending") - of("in_flight")


def with_some_of_everything(look: Callable[[list[Sending]], None]) -> list[Sending]:
    """Let `look` see dispatchers with entries in every column of the books."""

    async def fail(batch: list[Any]) -> None:
        raise ConnectionError

    async def main() -> list[Sending]:
        old: Any = {"capacity": 3, "on_full": "drop_oldest"}
        made = [
            Sending(post, ms_delay=60_000, name="full", capacity=3),
            Sending(post, ms_delay=60_000, name="old", **old),
            Sending(fail, ms_delay=60_000, name="down", home="thread"),
            Sending(post, ms_delay=60_000, name="bytes", layout=Bytes(max_bytes=1000)),
        ]
        for each in made[:3]:
            for number in range(5):
                each.enqueue(number)
        made[2].close()
        made[2].enqueue("late")
        made[3].enqueue(b"12345")
        made[3].enqueue(b"x" * 2000)
        look(made)  # the loop stands still: nothing is dispatched meanwhile
        for each in made:
            await each.aclose()
        return made

    return asyncio.run(main())


def test_every_column_of_the_books_has_its_metric(registry: Any) -> None:
    def look(made: list[Sending]) -> None:
        samples = scraped(registry)
        assert {name for name, _, _ in samples} == NAMES
        entries = "ringdispatch_entries"
        for each in made:
            seen, name = each.statistics(), each.name
            assert left_over(samples, name) == 0
            kinds = (
                "accepted_total",
                "failed_total",
                "left_total",
                "pending",
                "capacity",
            )
            for kind in kinds:
                value = getattr(seen, kind.removesuffix("_total"))
                assert samples[f"{entries}_{kind}", name, ""] == value
            for reason in REASONS:
                dropped = samples[f"{entries}_dropped_total", name, reason]
                assert dropped == getattr(seen, reason)
            spent = samples["ringdispatch_dispatch_seconds_total", name, ""]
            assert spent == seen.dispatch_seconds_total
            age = samples["ringdispatch_oldest_entry_age_seconds", name, ""]
            assert (age > 0) == (seen.pending > 0)
            for outcome in ("dispatched", "failed"):
                batches = samples["ringdispatch_batches_total", name, outcome]
                assert batches == getattr(seen, f"{outcome}_batches")
                recovered = samples[f"{entries}_recovered_total", name, outcome]
                assert recovered == 0
        drops = f"{entries}_dropped_total"
        assert samples[drops, "full", "rejected_full"] == 2
        assert samples[drops, "old", "evicted"] == 2
        assert samples[drops, "down", "rejected_closed"] == 1
        assert samples[drops, "bytes", "rejected_oversized"] == 1
        assert samples["ringdispatch_batches_total", "down", "failed"] == 1
        assert samples["ringdispatch_pending_bytes", "bytes", ""] >= 5
        assert samples["ringdispatch_capacity_bytes", "bytes", ""] == 1000
        assert ("ringdispatch_pending_bytes", "full", "") not in samples
        seen_by.append(made)

    seen_by: list[Any] = []
    made = with_some_of_everything(look)
    assert seen_by == [made]
    samples = scraped(registry)
    assert samples["ringdispatch_entries_dispatched_total", "full", ""] == 3


def test_batch_in_flight_is_in_no_outcome(registry: Any) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def held(batch: list[Any]) -> None:
            await release.wait()
            raise ConnectionError

        sending = Sending(held, ms_delay=60_000, max_batch=1, max_in_flight=3)
        for number in range(3):
            sending.enqueue(number)
        while sending.statistics().in_flight < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        before = scraped(registry)
        release.set()
        assert await sending.aclose()
        after = scraped(registry)
        name = sending.name
        outcomes = [
            [samples["ringdispatch_batches_total", name, outcome] for outcome in each]
            for samples in (before, after)
            for each in [("dispatched", "failed")]
        ]
        assert outcomes == [[0, 0], [0, 3]]
        assert before["ringdispatch_entries_in_flight", name, ""] == 3
        assert left_over(before, name) == left_over(after, name) == 0

    asyncio.run(main())


def test_books_are_whole_at_every_scrape(registry: Any) -> None:  # C8
    sending = Sending(post, ms_delay=0.1, capacity=64, on_full="drop_oldest")
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            sending.enqueue(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = [left_over(scraped(registry), sending.name) for _ in range(200)]
    ending.set()
    for thread in threads:
        thread.join()
    assert set(found) == {0}
    assert sending.close()


def test_dispatchers_of_one_name_have_numbers(registry: Any) -> None:
    made = [Sending(post, ms_delay=1, name="alike") for _ in range(3)]
    names = {name for _, name, _ in scraped(registry)}
    assert {"alike", "alike-2", "alike-3"} <= names
    del made[:]
    assert "alike" not in {name for _, name, _ in scraped(registry)}


def test_collector_can_be_taken_back_and_is_refused_twice() -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = ringdispatch.prometheus.register(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        ringdispatch.prometheus.register(registry)
    registry.unregister(collector)
    ringdispatch.prometheus.register(registry)


def test_wrong_argument_is_refused() -> None:
    wrong: Any = "REGISTRY"
    with pytest.raises(TypeError, match="registry='REGISTRY': must be a CollectorReg"):
        ringdispatch.prometheus.register(wrong)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
    ],
)
def test_missing_package_is_named_with_its_extra(
    module: str, package: str, extra: str
) -> None:
    ended = run_snippet(
        f"""
        sys.modules[{package!r}] = None
        try:
            import ringdispatch.{module}
        except ModuleNotFoundError as error:
            say(error)
        """
    )
    assert ended.lines[0].endswith(f"pip install 'ringdispatch[{extra}]'")


@pytest.fixture
def url(registry: Any) -> Iterator[str]:
    """A real server, as Prometheus would scrape it."""
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(not shutil.which("promtool"), reason="not installed: promtool")
def test_promtool_finds_nothing_wrong_in_a_scrape(url: str) -> None:
    found: list[bytes] = []

    def look(made: list[Sending]) -> None:
        with DIRECT.open(url, timeout=20) as response:
            found.append(response.read())

    with_some_of_everything(look)
    [text] = found
    assert text.count(b"# TYPE ringdispatch_") == len(NAMES)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, b"", b"")


# ---- OpenTelemetry


def instrumented(*readers: Any) -> Any:
    import ringdispatch.opentelemetry

    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    provider = metrics.MeterProvider(metric_readers=readers)
    ringdispatch.opentelemetry.instrument(provider)
    return provider


@pytest.fixture
def reader() -> Any:
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    return export.InMemoryMetricReader()


def collected(reader: Any) -> dict[tuple[str, str, str], float]:
    found = {}
    [resource] = reader.get_metrics_data().resource_metrics
    [scope] = resource.scope_metrics
    assert scope.scope.name == "ringdispatch"
    for metric in scope.metrics:
        for point in metric.data.data_points:
            labels = dict(point.attributes)
            of = labels.pop("dispatcher")
            found[metric.name, of, next(iter(labels.values()), "")] = point.value
    return found


def left_over_there(values: dict[tuple[str, str, str], float], name: str) -> float:
    def of(metric: str, own: str = "") -> float:
        return values[f"ringdispatch.entries.{metric}", name, own]

    dropped = of("dropped", "evicted") + of("dropped", "abandoned")
    out = of("dispatched") + of("failed") + dropped + of("left")
    return of("accepted") - out - of("pending") - of("in_flight")


def test_opentelemetry_observes_the_same(reader: Any) -> None:
    instrumented(reader)
    found: list[dict[tuple[str, str, str], float]] = []

    def look(made: list[Sending]) -> None:
        found.append(collected(reader))
        for each in made:
            assert left_over_there(found[0], each.name) == 0

    made = with_some_of_everything(look)
    assert found[0]["ringdispatch.entries.dropped", "old", "evicted"] == 2
    assert found[0]["ringdispatch.batches", "down", "failed"] == 1
    assert found[0]["ringdispatch.capacity", "bytes", ""] == 1000
    name = made[0].name
    assert found[0]["ringdispatch.entries.dispatched", name, ""] == 0
    assert collected(reader)["ringdispatch.entries.dispatched", name, ""] == 3


def test_opentelemetry_reads_one_snapshot_a_collection(reader: Any) -> None:  # C8
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    other = export.InMemoryMetricReader()
    instrumented(reader, other)
    sending = Sending(post, ms_delay=0.1, capacity=64, on_full="drop_oldest")
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            sending.enqueue(1)

    thread = threading.Thread(target=work)
    thread.start()
    found = [
        left_over_there(collected(each), sending.name)
        for _ in range(50)
        for each in (reader, other)
    ]
    ending.set()
    thread.join()
    assert set(found) == {0}
    assert sending.close()


def test_opentelemetry_exports_the_same_names_to_prometheus() -> None:
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus")
    provider = instrumented(exporter.PrometheusMetricReader())
    names: set[str] = set()

    def look(made: list[Sending]) -> None:
        for family in prometheus_client.REGISTRY.collect():
            names.update(sample.name for sample in family.samples)

    with_some_of_everything(look)
    provider.shutdown()
    assert {name for name in names if name.startswith("ringdispatch_")} == NAMES


def test_wrong_meter_provider_is_refused() -> None:
    pytest.importorskip("opentelemetry.metrics")
    import ringdispatch.opentelemetry

    wrong: Any = 5
    with pytest.raises(TypeError, match="meter_provider=5: must be a MeterProvider"):
        ringdispatch.opentelemetry.instrument(wrong)


def test_global_provider_is_the_default() -> None:
    pytest.importorskip("opentelemetry.sdk.metrics")
    ended = run_snippet(
        """
        import ringdispatch.opentelemetry
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        async def send(batch):
            pass

        ringdispatch.opentelemetry.instrument()  # before the provider is set
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        [resource] = reader.get_metrics_data().resource_metrics
        [scope] = resource.scope_metrics
        say(len(scope.metrics))
        """,
        warnings=("ignore::DeprecationWarning",),
    )
    assert ended.lines == ["14"]  # a layout of objects counts no bytes
