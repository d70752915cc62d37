"""What sinks raise, and what they take."""

from typing import Any, Protocol


class SinkError(Exception):
    """A batch did not arrive, or not all of it.

    The message names what refused it and why, and never a header, a query or another
    secret of the sink's.

    Attributes:
        retryable: Whether the same batch could succeed later.
        retry_after: Seconds that the service asks to wait for. None: it names none.
    """

    retryable: bool
    retry_after: float | None

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class RecordArray(Protocol):
    """A batch of the layout Records, as far as sinks look at it: a numpy array."""

    @property
    def dtype(self) -> Any:
        """Its `names` are those of the fields."""

    def tolist(self) -> Any:
        """The rows, as tuples of Python's own values."""

    def __len__(self) -> int: ...
