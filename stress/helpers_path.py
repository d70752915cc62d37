"""Makes tests/helpers importable; imported before anything from there."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
