"""`python -m ringdispatch tune`: see docs/tuning.md."""

import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave as by an exception, so that what was started is ended."""
    del frame
    sys.exit(128 + number)


def main() -> int:
    """Run the tuner; its extras may not be installed."""
    try:
        from ._tune._command import main as tune  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"jinja2", "rich"}:
            raise
        sys.stderr.write(
            f"ringdispatch: the tuner needs {missing}: "
            "pip install 'ringdispatch[tune]'\n"
        )
        return 2
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)
    return tune(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
