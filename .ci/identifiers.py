"""Compares the wheels that cibuildwheel would build, or has built, with those promised.

    python .ci/identifiers.py [--built FOLDER]

Without FOLDER it asks cibuildwheel, of the dependency group of that name.
"""

import argparse
import os
import re
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


def built(platform: str, folder: Path) -> set[str]:
    found = set()
    for wheel in folder.glob("*.whl"):
        _, _, _, abi, tags = wheel.stem.split("-")
        known = re.fullmatch(
            r"(manylinux|musllinux|macosx|win)\w*?_(x86_64|aarch64|arm64|amd64)",
            tags.split(".")[0],
        )
        if known is None:
            raise SystemExit(f"{wheel}: for {tags}, which is not promised")
        system, machine = known.groups()
        if f"{system}_{machine}" in PLATFORMS[platform]:
            found.add(f"{abi}-{system}_{machine}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--built", type=Path, help="the folder with the wheels")
    folder = parser.parse_args().built
    wrong = 0
    for platform in PLATFORMS:
        ours = promised(platform)
        theirs = built(platform, folder) if folder else planned(platform)
        print(f"{platform}: {len(theirs)} wheels, {len(ours)} promised")
        for name in sorted(ours ^ theirs):
            print(f"  {name}: {'missing' if name in ours else 'not promised'}")
        wrong += ours != theirs
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
