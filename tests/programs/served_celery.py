"""What the Celery workers of test_servers.py run: one task, sent when they are up."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_ready

from served import CLOSES, dispatcher, enqueue_all

app = Celery("served", broker="memory://")


@app.task(ignore_result=True)
def work() -> None:
    enqueue_all()


@worker_ready.connect
def start(**_: Any) -> None:
    work.delay()


if CLOSES == "worker_process_shutdown":

    @worker_process_shutdown.connect
    def end(**_: Any) -> None:
        assert dispatcher.close()
