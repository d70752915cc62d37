"""For tests of code that uses a dispatcher.

`RecordingDispatcher` stands in for a dispatcher: each entry is dispatched at once, and
recorded. `SteppedClock` makes delays and timeouts pass without waiting for them.
`FaultyDispatch` is a dispatch function that fails, hangs or is slow on demand.

`ringdispatch.testing.plugin` has a fixture for pytest. It is loaded only where it is
named, and nothing else here imports pytest.
"""

from ._clock import SteppedClock
from ._faults import HANG, FaultyDispatch
from ._recording import RecordingDispatcher

__all__ = ["HANG", "FaultyDispatch", "RecordingDispatcher", "SteppedClock"]
