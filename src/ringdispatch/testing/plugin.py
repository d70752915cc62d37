"""A fixture for pytest, where a conftest.py names this module.

In the root's conftest.py: `pytest_plugins = ["ringdispatch.testing.plugin"]`.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from ._recording import RecordingDispatcher


@pytest.fixture
def recording_dispatcher() -> Iterator[RecordingDispatcher[Any]]:
    """A dispatcher that dispatches at once and records; closed after the test."""
    with RecordingDispatcher[Any]() as dispatcher:
        yield dispatcher
