"""The documentation as tests see it: its files and their fenced blocks. Nothing is judged here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["CONFIGURATION", "DOCS", "README", "ROOT", "Block", "blocks", "ids", "of_language", "sample"]

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
PLACES = ("*.md", "docs/**/*.md", "examples/*/README.md", "tests/README.md")
DOCS = sorted(path for place in PLACES for path in ROOT.glob(place))


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    file: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Its file name, where its first line is a comment that says one."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else ""


@cache
def blocks() -> tuple[Block, ...]:
    found = []
    for file in DOCS:
        lines = iter(enumerate(file.read_text(encoding="utf-8").splitlines(), start=1))
        for number, line in lines:
            if line.startswith("```"):
                body = []
                for _, inner in lines:
                    if inner.startswith("```"):
                        break
                    body.append(inner + "\n")
                found.append(Block(file, number, line.removeprefix("```").strip() or "sh", "".join(body)))
    return tuple(found)


def of_language(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


def ids(block: Block) -> str:
    return f"{block.file.name}-{block.line}"


def sample(name: str) -> str:
    [block] = [block for block in blocks() if block.file == README and block.name == name]
    return block.text
