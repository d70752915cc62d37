"""`python -m ringdispatch tune`: see docs/tuning.md."""

import sys


def main() -> int:
    """Run the tuner; its extras may not be installed."""
    try:
        from ._tune._command import main as tune  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        sys.stderr.write(
            "ringdispatch: the tuner needs rich: pip install 'ringdispatch[tune]'\n"
        )
        return 2
    return tune(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
