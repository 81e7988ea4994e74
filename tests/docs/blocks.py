"""The fenced blocks of the pages, and the commands in those of bash."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>.*)$")
_MARK = re.compile(r"^ *<!-- (?P<mark>runs|saved as (?P<path>\S+)) -->$")
# What would need a shell to be understood.
_SHELL = re.compile(r"[|&;<>`]|\$\(|\$\{?\w")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: The number of its first line, from 1.
        language: What stands behind the fence.
        text: Its lines without the fence's indentation.
        runs: It is marked to be run: `<!-- runs -->` on the line before the fence, or before an empty line.
        path: Under what name readers are told to save it: `<!-- saved as NAME -->` in the same place.
    """

    page: Path
    line: int
    language: str
    text: str
    runs: bool = False
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    lines = page.read_text().splitlines()
    found, mark, index = [], None, 0
    while index < len(lines):
        fence = _FENCE.match(lines[index])
        if fence is None:
            if lines[index].strip():
                mark = _MARK.match(lines[index])
            index += 1
            continue
        end = next(later for later in range(index + 1, len(lines)) if lines[later].strip() == "```")
        indent = len(fence["indent"])
        text = "\n".join(line[indent:] for line in lines[index + 1 : end]) + "\n"
        runs, path = mark is not None and mark["mark"] == "runs", mark["path"] if mark else None
        found.append(Block(page, index + 2, fence["language"].strip(), text, runs, path))
        mark, index = None, end + 1
    return found


def commands_in(block: Block) -> list[list[str]]:
    """Return the commands of a bash block, split into words; comments and `...` for more of the same are left out."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        bare = shlex.split(re.sub(r"'[^']*'", "", line), comments=True)
        if any(_SHELL.search(word) for word in bare):
            message = f"{block}: only plain commands are understood, not {line!r}"
            raise ValueError(message)
        if words:
            commands.append([word for word in words if word != "..."])
    return commands
