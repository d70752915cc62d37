"""A real Prometheus scrapes real processes: its query for the books gives zero."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grafana import ALERTS, expressions
from ringdispatch import BackgroundDispatcher
from serving import DIRECT, Server, free_port, needs, serve

prometheus_client = pytest.importorskip("prometheus_client")

import ringdispatch.prometheus  # noqa: E402, needs prometheus_client

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="not installed: prometheus"
)

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def block(language: str, title: str = "") -> str:
    info = f'{language} title="{title}"' if title else language
    found = re.search(
        rf"^```{re.escape(info)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, info
    return found[1]


BOOKS = block("promql")
CONFIGURATION = """
global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}
rule_files: [{alerts}]
scrape_configs: [{{ job_name: shop, static_configs: [{{ targets: {targets} }}] }}]
"""


class Prometheus:
    """A server that scrapes `ports` of this machine."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        targets = json.dumps([f"127.0.0.1:{port}" for port in ports])
        path = folder / "prometheus.yml"
        path.write_text(CONFIGURATION.format(alerts=ALERTS, targets=targets))
        self._log = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def get(self, path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with DIRECT.open(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:  # an answer, that it is not ready
            error.close()
            raise
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> dict[tuple[str, str], float]:
        """The values by instance and dispatcher."""
        result = self.get("query", query=expression)["result"]
        return {
            (
                each["metric"].get("instance", ""),
                each["metric"].get("dispatcher", ""),
            ): (float(each["value"][1]))
            for each in result
        }

    def eventually(self, condition: Callable[[], Any], seconds: float = 40.0) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):  # it is not up yet
                if found := condition():
                    return found
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._log.seek(0)
                pytest.fail(f"it never came:\n{self._log.read()}")
            time.sleep(0.05)


@contextlib.contextmanager
def prometheus(folder: Path, ports: list[int]) -> Iterator[Prometheus]:
    server = Prometheus(folder, ports)
    try:
        yield server
    finally:
        server.end()


def test_books_are_zero_at_every_scrape_under_traffic(tmp_path: Path) -> None:
    async def send(batch: list[int]) -> None:
        if batch[0] % 7 == 0:
            raise ConnectionError

    sending = BackgroundDispatcher[int](
        send, ms_delay=1, capacity=512, max_batch=100, on_full="drop_oldest", name="a"
    )
    registry = prometheus_client.CollectorRegistry()
    ringdispatch.prometheus.register(registry)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    ending = threading.Event()

    def work() -> None:
        number = 0
        while not ending.wait(0.0005):
            for _ in range(50):
                number += 1
                sending.enqueue(number)

    producer = threading.Thread(target=work)
    producer.start()
    try:
        with prometheus(tmp_path, [server.server_port]) as seen:
            accepted = (
                f'ringdispatch_entries_accepted_total{{dispatcher="{sending.name}"}}'
            )
            count = f"count_over_time({accepted}[1h])"
            seen.eventually(lambda: max(seen.query(count).values(), default=0) >= 15)
            ending.set()
            producer.join()
            now = time.time()
            seen_since = seen.get(
                "query_range", query=BOOKS, start=now - 60, end=now, step="0.2"
            )
            [mine] = [
                each["values"]
                for each in seen_since["result"]
                if each["metric"]["dispatcher"] == sending.name
            ]
            assert len(mine) >= 10
            assert {float(value) for _, value in mine} == {0.0}

            # What the log of a service would be looked through for, at a glance.
            def is_shown(expression: str) -> bool:
                shown = seen.query(expression.replace("[5m]", "[10s]"))
                return bool(shown) or "_bytes" in expression  # it has no such bounds

            for expression in expressions():  # a scrape that is late leaves a gap
                seen.eventually(partial(is_shown, expression))
            groups = seen.get("rules")["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(rules) == 4
            assert {rule["health"] for rule in rules} == {"ok"}
            states = {rule["name"]: rule["state"] for rule in rules}
            assert states["RingdispatchFailures"] == "pending"  # for five minutes
    finally:
        ending.set()
        producer.join()
        server.shutdown()
        server.server_close()
        thread.join()
        assert sending.close()


# ---- gunicorn's workers, by the page's configuration


SHOP = """\
import os

from ringdispatch import BackgroundDispatcher


def send(entries):
    pass


dispatcher = BackgroundDispatcher(send, ms_delay=10)


def app(environ, start_response):
    dispatcher.enqueue(environ["PATH_INFO"])
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@contextlib.contextmanager
def two_workers(folder: Path, *options: str) -> Iterator[tuple[Server, list[int]]]:
    first = free_port()
    ports = [first + number for number in range(4)]
    source = block("python", "gunicorn.conf.py").replace("9400", str(first))
    (folder / "shop.py").write_text(SHOP)
    (folder / "conf.py").write_text(source.replace("workers = 4", "workers = 2"))
    command = ["-m", "gunicorn", "-c", "conf.py", "-b", "fd://{fd}", *options]
    with serve([*command, "shop:app"], folder) as server:
        yield server, ports


def pids_of(server: Server, requests: int) -> set[int]:
    return {server.ask(f"/{number}") for number in range(requests)}


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is for Unix")
@needs("gunicorn")
@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_every_worker_of_gunicorn_is_scraped(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    total = "sum(ringdispatch_entries_accepted_total)"
    with (
        two_workers(tmp_path, *options) as (server, ports),
        prometheus(tmp_path, ports) as seen,
    ):
        seen.eventually(lambda: list(seen.query("sum(up)").values()) == [2.0])
        pids: set[int] = set()
        asked = 0
        while len(pids) < 2 or asked < 100:  # until both have answered
            pids.add(server.ask(f"/{asked}"))
            asked += 1
        seen.eventually(lambda: list(seen.query(total).values()) == [asked])
        seen.eventually(lambda: set(seen.query(BOOKS).values()) == {0.0})

        def of_both() -> dict[Any, float] | None:
            counts = seen.query("ringdispatch_entries_accepted_total")
            return counts if len(counts) == 2 else None  # one had a late scrape

        before = seen.eventually(of_both)

        # A worker that dies is replaced, on the port that it had.
        os.kill(min(pids), signal.SIGKILL)

        def replaced() -> bool:
            counts = seen.query("ringdispatch_entries_accepted_total")
            return counts.keys() == before.keys() and 0.0 in counts.values()

        seen.eventually(replaced)

        # A reload has new workers beside the old ones, on the ports that are left.
        server.process.send_signal(signal.SIGHUP)
        seen.eventually(lambda: pids_of(server, 20).isdisjoint(pids))
        seen.eventually(lambda: list(seen.query("sum(up)").values()) == [2.0])
        seen.eventually(lambda: [*seen.query(BOOKS).values()] == [0.0, 0.0])
