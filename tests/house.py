"""The order of the house, where no other tool looks: `python -m tests.house` prints a line a fault.

Every module and every Lua script is on the map in docs/architecture.md, and the map names none
that is not there; a room has at most fifteen modules; a line ends at column 100; a file that a
comment or a page names is there.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("hive", "tests", "bench", "examples")
MOST_MODULES = 15
LARGE_ROOMS = frozenset({"hive/cli"})
"""One module a command group; nobody reads the room as a whole."""
LONGEST_LINE = 100

_ROOM = re.compile(r"^#+ `(hive/(?:\w+/)*)`", re.MULTILINE)
_NAMED = re.compile(r"`([\w/]+\.(?:py|lua))`")
_FILE = re.compile(r"(?<![\w./-])[\w.-][\w./-]*\.(?:md|py|lua)\b")
_WRITTEN = re.compile(r"<!-- file: (\S+) -->")
_CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def faults(root: Path = ROOT) -> list[str]:
    """What is out of order in the repository at `root`, a sentence each."""
    return [*_off_the_map(root), *_crowded(root), *_long_lines(root), *_dangling(root)]


def _inhabitants(root: Path) -> set[str]:
    """The paths of all modules but `__init__`, and of all Lua scripts."""
    found = [*(root / "hive").rglob("*.py"), *(root / "hive").rglob("*.lua")]
    return {path.relative_to(root).as_posix() for path in found if path.stem != "__init__"}


def _mapped(page: str) -> Iterator[str]:
    """The paths that the map names: below a room's heading, modules and scripts in backticks."""
    for room in _ROOM.finditer(page):
        section = re.split(r"^#", page[room.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        for name in _NAMED.findall(section):
            yield room[1] + (f"lua/{name}" if name.endswith(".lua") else name)


def _off_the_map(root: Path) -> Iterator[str]:
    here = _inhabitants(root)
    named = Counter(_mapped((root / "docs" / "architecture.md").read_text()))
    for path in sorted(here - named.keys()):
        yield f"{path} is not on the map in docs/architecture.md."
    for path in sorted(named.keys() - here):
        yield f"The map in docs/architecture.md names {path}, which is not there."
    for path, times in sorted(named.items()):
        if times > 1:
            yield f"The map in docs/architecture.md names {path} {times} times."


def _crowded(root: Path) -> Iterator[str]:
    modules = (path for path in _inhabitants(root) if path.endswith(".py"))
    for room, count in sorted(Counter(path.rpartition("/")[0] for path in modules).items()):
        if count > MOST_MODULES and room not in LARGE_ROOMS:
            yield f"{room} has {count} modules; a room has at most {MOST_MODULES}."


def _long_lines(root: Path) -> Iterator[str]:
    for path in _files(root, "py", "lua"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > LONGEST_LINE:
                where = f"{path.relative_to(root)}:{number}"
                yield f"{where} has {len(line)} columns; a line has at most {LONGEST_LINE}."


def _dangling(root: Path) -> Iterator[str]:
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    there = {
        path.relative_to(root).as_posix()
        for path in (*_files(root, "py", "lua"), *root.rglob("*.md"))
    }
    ends = {path[at:] for path in there for at in _beginnings(path)}
    for path in (*_files(root, "py", "lua"), *(page for page in pages if page.exists())):
        text = path.read_text()
        ends_here = ends | set(_WRITTEN.findall(text))  # and what a page's own blocks write
        for said in _prose(path, text):
            for name in _FILE.findall(said):
                if name.removeprefix("../") not in ends_here:
                    yield f"{path.relative_to(root)} names {name}, which is not there."


def _files(root: Path, *endings: str) -> list[Path]:
    return [
        path
        for source in SOURCES
        for ending in endings
        for path in sorted((root / source).rglob(f"*.{ending}"))
    ]


def _beginnings(path: str) -> list[int]:
    """Where a name of the file may begin: at its first folder, or at any later one."""
    return [0, *(match.end() for match in re.finditer("/", path))]


def _prose(path: Path, text: str) -> Iterator[str]:
    """What a file says to people: its comments and docstrings, or a page without its blocks."""
    if path.suffix == ".md":
        yield _CODE_BLOCK.sub("", text)
    elif path.suffix == ".lua":
        yield from (line.partition("--")[2] for line in text.splitlines())
    else:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.string
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


if __name__ == "__main__":
    found = faults()
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    sys.exit(bool(found))
