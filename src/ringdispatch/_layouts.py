"""How entries lie in the ring, and so what a batch is."""

from dataclasses import dataclass

from ._ring import ObjectRing, Ring


@dataclass(frozen=True, slots=True)
class Objects:
    """Entries are kept as they are; a batch is a list of them.

    Any object goes in. A pending entry costs its own memory and 8 bytes.
    """

    def make_ring(self, capacity: int, max_batch: int) -> Ring:
        """Make the ring that holds up to `capacity` entries laid out this way."""
        return ObjectRing(capacity, max_batch)
