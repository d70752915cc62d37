"""Messages that are parked: where, what is noted on them, and what is told of them."""

from ._source import Held, in_line

DEAD = "-dead"  # behind the name of a stream: where its dead letters are


def marks(held: Held, reason: str) -> dict[str, str]:
    """Headers that say why it is there, and where it was."""
    return {
        "Ringdispatch-Reason": in_line(reason),
        "Ringdispatch-Origin": held.name,
        "Ringdispatch-Deliveries": str(held.deliveries),
    }


def parked_words(where: str, count: int) -> list[str]:
    """What a relay says at the start of what was parked; nothing of none."""
    if not count:
        return []
    what, them = f"{count:,} messages that were", "them"
    if count == 1:
        what, them = "1 message that was", "it"
    return [
        f"{where} holds {what} parked: --replay-dead-letters calls for {them} again"
    ]
