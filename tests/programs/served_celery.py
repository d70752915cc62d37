"""What the Celery workers of test_servers.py run, once they are up.

One task; with TRAFFIC in the environment, tasks without end.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_ready

from served import CLOSES, PAUSE, dispatcher, enqueue_all, traffic

app = Celery("served", broker="memory://")
steps = traffic()


@app.task(ignore_result=True)
def work() -> None:
    enqueue_all()


@app.task(ignore_result=True)
def step() -> None:
    next(steps)


def send_steps() -> None:
    while True:
        step.delay()
        time.sleep(PAUSE)


@worker_ready.connect
def start(**_: Any) -> None:
    if "TRAFFIC" in os.environ:
        threading.Thread(target=send_steps, daemon=True).start()
    else:
        work.delay()


if CLOSES == "worker_process_shutdown":

    @worker_process_shutdown.connect
    def end(**_: Any) -> None:
        assert dispatcher.close()
