"""Tasks without end for the worker that includes it, each noted where it ran."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from celery.signals import task_postrun, worker_ready
from tasks import pay

from served import PAUSE, note


def send() -> None:
    for order in itertools.count():
        pay.delay(order)
        time.sleep(PAUSE)


@worker_ready.connect
def start(**_: Any) -> None:
    threading.Thread(target=send, daemon=True).start()


@task_postrun.connect
def ran(args: list[int], **_: Any) -> None:
    note(f"/{args[0]}")
