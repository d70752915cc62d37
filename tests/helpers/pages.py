"""The blocks of Python in README.md and docs/."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ringdispatch._spool_file import SUPPORTED

ROOT = Path(__file__).parents[2]
# What pages post to: a service of yours, and `python -m ringdispatch collector`.
ADDRESSES = re.compile("https://logs.example.com/|http://127.0.0.1:(8780|4318)/")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<source>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
# What the library's sinks import.
SINKS = {
    "HttpSink": {"aiohttp"},
    "JetStreamSink": {"nats"},
    "KafkaSink": {"aiokafka"},
    "OtlpLogSink": {"aiohttp", "google"},
    "RedisStreamSink": {"redis"},
}


@dataclass
class Block:
    page: str
    heading: str
    line: int
    title: str | None
    source: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def missing(self) -> list[str]:
        """Packages that it imports and that are not installed here; or Linux."""
        imported = set()
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
                for alias in node.names if node.module == "ringdispatch.sinks" else ():
                    imported |= SINKS.get(alias.name, set())
        missing = [name for name in sorted(imported) if not installed(name)]
        return missing if SUPPORTED or "spool=" not in self.source else ["Linux"]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, _, info = fence["info"].partition(" ")
        if language != "python":
            continue
        above = FENCE.sub("", text[: fence.start()])
        headings = re.findall(r"^#+ (.+)$", above, re.MULTILINE)
        title = re.search(r'title="([^"]+)"', info)
        found.append(
            Block(
                path.relative_to(ROOT).as_posix(),
                headings[-1],
                text.count("\n", 0, fence.start()) + 2,
                title and title[1],
                textwrap.dedent(fence["source"]),
            )
        )
    return found


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {path.relative_to(ROOT).as_posix(): blocks_of(path) for path in PAGES}
