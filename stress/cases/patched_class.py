"""A test patches the method of a subclass, as docs/testing.md describes."""

from unittest import mock

from ringdispatch import BackgroundDispatcher


class Audit(BackgroundDispatcher):
    pass


d = Audit(lambda b: None, ms_delay=10)
with (
    mock.patch.object(BackgroundDispatcher, "enqueue", return_value="patched"),
    mock.patch.object(Audit, "enqueue", return_value="patched"),
):
    base = BackgroundDispatcher(lambda b: None, ms_delay=10).enqueue(1)
    sub = d.enqueue(1)
assert (base, sub) == ("patched", "patched"), (base, sub)
assert d.enqueue(1) is True
assert d.close()
