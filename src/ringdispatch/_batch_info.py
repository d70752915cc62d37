"""What a dispatch function may know of the batch that it was called with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """The batch that the running code belongs to; `current_batch()` returns it.

    Attributes:
        id: `<uuid>-<start>-<count>`. With a spool it is the same in every call for
            these entries, in whichever process: a service drops doubles by it.
        recovered: Whether another process accepted the entries, and left them in the
            spool.
        start: The position of the first entry among all that were accepted there.
        count: How many accepted entries the batch was made of; a damaged one is missing
            in a recovered batch.
        attempts: How many calls were made for it, this one included. A recovered
            batch's call isn't counted if a close cut it short, if it had run for a
            minute when its process was killed, or if a replay left the batch in its
            file.
    """

    id: str
    recovered: bool
    start: int
    count: int
    attempts: int
