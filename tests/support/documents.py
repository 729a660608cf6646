"""The documents of the repository as data: their sections, tables and fenced blocks."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PATHS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
RESULTS = "benchmarks/RESULTS.md"
RESULT_PAGES = [RESULTS, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks/results").glob("*.md"))]
SCRIPT = "sh"  # language of the blocks that a test runs
COMMAND = "console"  # language of the blocks that no test runs as they are


class Block(NamedTuple):
    """A fenced block."""

    language: str
    content: str


def read(path: str) -> str:
    return (ROOT / path).read_text()


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of a text, in order; only those of `languages` if any are given."""
    found = [Block(*groups) for groups in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)]
    return [block for block in found if not languages or block.language in languages]


def section(text: str, title: str) -> str:
    """The text under the heading `title`, up to the next heading of the same level or a higher one."""
    lines = iter(text.splitlines(keepends=True))
    marks = next((line.partition(" ")[0] for line in lines if re.fullmatch(rf"#+ {re.escape(title)}\n", line)), "")
    if not marks:
        raise LookupError(f"no heading {title!r}")
    found, fenced = [], False
    for line in lines:
        fenced ^= line.startswith("```")
        if not fenced and re.match(rf"#{{1,{len(marks)}}} ", line):
            break
        found.append(line)
    return "".join(found)


def table(text: str) -> list[tuple[str, list[str]]]:
    """The rows of all tables whose first cell is code: that code, and the other cells."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, flags=re.MULTILINE)
    return [(name, [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)]) for name, rest in rows]
