"""Whether a stream is such that a relay can empty it, and loses nothing."""

from collections.abc import Iterator

from nats.js.api import DiscardPolicy, StorageType, StreamConfig


def warnings_of(where: str, config: StreamConfig) -> Iterator[str]:
    """What a stream's settings may do to messages."""
    bounds = config.max_bytes, config.max_msgs, config.max_age
    bounded = any(bound and bound > 0 for bound in bounds)
    if not bounded:
        yield f"{where}: keeps all without a bound: set its max_bytes or max_age"
    elif config.discard != DiscardPolicy.NEW or (config.max_age or 0) > 0:
        yield (
            f"{where}: removes messages that were not relayed, by its bounds: with "
            "discard=new and no max_age gateways keep what does not fit"
        )
    if config.storage == StorageType.MEMORY:
        yield f"{where}: is in memory only: a server that ends takes it along"
    if config.no_ack:
        yield f"{where}: has no_ack: a gateway never knows that a batch arrived"


def plain(value: object) -> object:
    return getattr(value, "value", value)
