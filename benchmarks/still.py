"""Draws docs/images/killed.svg: what `make demo` prints where the gateway is killed.

    make still

It runs the demo, again where no entry arrived twice; the lines of samples are left out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from drawing import terminal

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "killed.svg"
COMMAND = '$ make demo ARGS="--spool DIRECTORY --kill"'
SAMPLE = re.compile(r" *[\d.]+ s   requests/s ")
NO_DOUBLES = re.compile(r"doubles with their first one's id +0 ")
COUNT = re.compile(r" ( *)(\S.*?)  +([\d,]+) *")


def printed() -> str:
    with tempfile.TemporaryDirectory() as spool:
        demo = [sys.executable, "examples/demo.py", "--kill", "--spool", spool]
        return subprocess.run(
            demo, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ).stdout


def main() -> None:
    said = next(each for each in iter(printed, "") if not NO_DOUBLES.search(each))
    lines = [(COMMAND, "", "soft")]
    for line in said.splitlines():
        if found := COUNT.fullmatch(line):
            indent, name, count = found.groups()
            lines.append((indent + name, count, ""))
        elif not SAMPLE.match(line):
            lines.append((line, "", "bold"))
    *others, (last, _, _) = lines
    words = "; ".join(f"{name.strip()} {count}".strip() for name, count, _ in lines)
    lines = [*others, (last, "", "ours bold")]
    PICTURE.write_text(terminal("The gateway is killed in mid-traffic", words, lines))
    print(f"{PICTURE.relative_to(ROOT)} is drawn")


if __name__ == "__main__":
    main()
