"""The pytest plugin of peer_suites.py: installs an adapter, reports how tests ended.

Nothing is imported early: Sentry's tests refuse to begin when its package is loaded.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher

RANK = ("passed", "skipped", "failed")
ended: dict[str, str] = {}
made: list[str] = []
left_out: list[str] = []


def pytest_sessionstart() -> None:
    """Install the adapter, and count the dispatchers that it makes."""
    make = BackgroundDispatcher.__init__

    def counted(self: BackgroundDispatcher[Any], *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        made.append(self.name)

    BackgroundDispatcher.__init__ = counted  # type: ignore[method-assign]
    importlib.import_module(os.environ["RINGDISPATCH_ADAPTER"]).install()


def pytest_deselected(items: list[pytest.Item]) -> None:
    left_out.extend(item.nodeid for item in items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst of a test's set-up, call and teardown."""
    before = ended.get(report.nodeid, "passed")
    ended[report.nodeid] = max(before, report.outcome, key=RANK.index)


def pytest_sessionfinish() -> None:
    found = {"ended": ended, "left_out": left_out, "dispatchers": len(made)}
    Path(os.environ["RINGDISPATCH_OUTCOMES"]).write_text(json.dumps(found))
