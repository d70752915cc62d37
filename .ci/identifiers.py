"""Compares the wheels that cibuildwheel would build with those we promise.

    python .ci/identifiers.py [--list]

Needs the dependency group cibuildwheel; builds nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

PYTHONS = ["cp311", "cp312", "cp313", "cp314", "cp314t", "cp315", "cp315t"]
PLATFORMS = {
    "linux": [
        "manylinux_x86_64",
        "manylinux_aarch64",
        "musllinux_x86_64",
        "musllinux_aarch64",
    ],
    "macos": ["macosx_arm64", "macosx_x86_64"],
    "windows": ["win_amd64", "win_arm64"],
}
ROOT = Path(__file__).parent.parent


def promised(platform: str) -> set[str]:
    return {f"{python}-{name}" for python in PYTHONS for name in PLATFORMS[platform]}


def planned(platform: str) -> set[str]:
    own = {key: value for key, value in os.environ.items() if key[:5] != "CIBW_"}
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"]
    run = subprocess.run(
        [*command, "--platform", platform, str(ROOT)],
        capture_output=True,
        check=False,
        env=own,
        text=True,
    )
    if run.returncode:
        raise SystemExit(f"cibuildwheel failed for {platform}:\n{run.stderr}")
    return set(run.stdout.split())


def main() -> int:
    if "--list" in sys.argv[1:]:
        print(*sorted(name for each in PLATFORMS for name in promised(each)), sep="\n")
        return 0
    wrong = 0
    for platform in PLATFORMS:
        ours, theirs = promised(platform), planned(platform)
        print(f"{platform}: {len(theirs)} wheels planned, {len(ours)} promised")
        for name in sorted(ours ^ theirs):
            print(f"  {name}: {'not planned' if name in ours else 'not promised'}")
        wrong += ours != theirs
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
