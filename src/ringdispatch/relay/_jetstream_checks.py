"""Whether a stream is such that a relay can empty it, and loses nothing."""

from collections.abc import Iterator

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig


def warnings_of(where: str, config: StreamConfig) -> Iterator[str]:
    """What a stream's settings may do to messages."""
    bounded = any((bound or 0) > 0 for bound in (config.max_bytes, config.max_msgs))
    ages = (config.max_age or 0) > 0
    if not bounded and not ages:
        yield f"{where}: keeps all without a bound: set its max_bytes, and discard=new"
    elif ages or config.discard != DiscardPolicy.NEW:
        yield (
            f"{where}: removes messages that were not relayed, by its bounds: with "
            "retention=workqueue, discard=new and no max_age gateways keep what does "
            "not fit"
        )
    elif config.retention in {None, RetentionPolicy.LIMITS}:
        yield (
            f"{where}: retention=limits keeps what was relayed, so that it fills up "
            "and gateways wait for ever: make it anew with retention=workqueue"
        )
    if config.storage == StorageType.MEMORY:
        yield f"{where}: is in memory only: a server that ends takes it along"
    if config.no_ack:
        yield f"{where}: has no_ack: a gateway never knows that a batch arrived"


def plain(value: object) -> object:
    return getattr(value, "value", value)
