"""The Redis keys that docs/keys.md names, and those that the sources make, found by reading Lua and
Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SPACE = "venom:"
ANY = "<>"
"""What stands for a part of a name that only the running program knows."""

TYPES = {
    "string": "string",
    "hash": "hash",
    "list": "list",
    "set": "set",
    "sorted set": "zset",
    "stream": "stream",
}
"""The page's words for Redis' types."""


@dataclass(frozen=True, slots=True)
class DocumentedKey:
    """A row of the page. `name` has `<>` for each `<word>`; `types` are as Redis names them."""

    name: str
    types: frozenset[str]

    def matches(self, key: str) -> bool:
        """Whether a key of the broker is this one; a queue's lists of other priorities are the
        queue's.
        """
        pattern = ".+".join(map(re.escape, self.name.split(ANY)))
        return re.fullmatch(rf"{pattern}(\x06\x16\d+)?", key) is not None


def documented_keys(page: str) -> list[DocumentedKey]:
    """The keys of the page's tables."""
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|", page, re.MULTILINE)
    return [
        DocumentedKey(
            _general(name), frozenset(TYPES[word] for word in re.split(r", | or ", kinds))
        )
        for name, kinds in rows
    ]


def mentioned_keys(page: str) -> set[str]:
    """Every key of Hive's that the page names anywhere."""
    return {_general(name) for name in re.findall(rf"`({SPACE}[^`]+)`", page)}


def _general(name: str) -> str:
    return re.sub(r"<[^>]*>", ANY, name)


def named_by(made: str, documented: str) -> bool:
    """Whether a name that the sources make is the documented one; one that ends in a colon is only
    the beginning of a name.
    """
    parts = "[^:]+".join(map(re.escape, made.split(ANY)))
    return re.fullmatch(f"{parts}.*" if made.endswith(":") else parts, documented) is not None


def keys_in_sources(root: Path) -> dict[str, str]:
    """Every name below `venom:` that a source file makes, with the file."""
    found: dict[str, str] = {}
    for file in sorted(root.rglob("*.py")):
        found |= dict.fromkeys(keys_in_python(file.read_text()), str(file.relative_to(root)))
    channel = Lua((root / "broker/channel/lua/lib.lua").read_text()).values
    for folder in sorted({file.parent for file in root.rglob("*.lua")}):
        library = folder / "lib.lua"
        shared = channel | (Lua(library.read_text(), channel).values if library.exists() else {})
        for file in sorted(folder.glob("*.lua")):
            found |= dict.fromkeys(
                Lua(file.read_text(), shared).keys(), str(file.relative_to(root))
            )
    return {name: file for name, file in found.items() if name not in (SPACE, SPACE + ANY)}


def keys_in_python(text: str) -> set[str]:
    """Names in texts, in formatted texts, in sums of both, and in calls of `.key(…)` and
    `job_key(…)`.
    """
    made = {_value(node) for node in ast.walk(ast.parse(text))}
    return {
        value[value.index(SPACE) :]
        for value in made
        if value and SPACE in value and re.fullmatch(r"[\w:<>.{}-]+", value)
    }


def _value(node: ast.AST) -> str:
    """The text that an expression makes, `<>` for what is not known; empty for what is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id="SPACE"):
            return SPACE
        case ast.JoinedStr(values=parts):
            return "".join(_value(part) or ANY for part in parts)
        case ast.FormattedValue(value=inner):
            return _value(inner) if isinstance(inner, ast.Name) else ANY
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_value(left) or ANY) + (_value(right) or ANY)
        case ast.Call(func=ast.Attribute(attr="key"), args=[_, *_] as parts):
            return SPACE + ":".join(_value(part) or ANY for part in parts)
        case ast.Call(
            func=ast.Name(id="job_key") | ast.Attribute(attr="job_key"), args=[_, _, part]
        ):
            return f"{SPACE}job:{ANY}:{_value(part) or ANY}"
    return ""


_TOKEN = re.compile(
    r"--[^\n]*|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[A-Za-z_]\w*|\.\.\.|\.\.|\d[\w.]*|\S"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Lua:
    """The texts that a Lua file joins with `..`.

    It knows strings, names and what a local name was set to, not the rest of the language.
    """

    def __init__(self, text: str, values: Mapping[str, str] | None = None) -> None:
        """values: what names stand for that a file before this one has set."""
        self._tokens = [token for token in _TOKEN.findall(text) if not token.startswith("--")]
        self.values = dict(values or {})
        self._made = list(self._read())

    def keys(self) -> set[str]:
        return {made[made.index(SPACE) :] for made in self._made if SPACE in made}

    def _read(self) -> Iterator[str]:
        """Every joined text; local names are taken over as they are set."""
        position = 0
        while position < len(self._tokens):
            if self._tokens[position] == "local":
                names, after = self._names(position + 1)
                for name in names if self._at(after) == "=" else ():
                    made, after = self._joined(after + 1)
                    self.values[name] = made if SPACE in made else ANY
                    if self._at(after) != ",":
                        break
            made, _ = self._joined(position)
            yield made
            position += 1

    def _names(self, position: int) -> tuple[list[str], int]:
        names = [self._at(position)]
        while self._at(position + 1) == ",":
            position += 2
            names.append(self._at(position))
        return names, position + 1

    def _joined(self, position: int) -> tuple[str, int]:
        """The text from here over every `..`, and where it ends."""
        parts = ""
        while True:
            part, position = self._operand(position)
            parts += part
            if self._at(position) != "..":
                return parts, position
            position += 1

    def _operand(self, position: int) -> tuple[str, int]:
        """A string, a known name, or anything else with its calls, indexes and fields."""
        token = self._at(position)
        if token[:1] in ("'", '"'):
            return token[1:-1], position + 1
        known = self.values.get(token, ANY)
        position = self._after(position) if token in _CLOSING else position + 1
        while self._at(position) in ("(", "[", ".", ":"):
            known = ANY
            position = position + 2 if self._at(position) in (".", ":") else self._after(position)
        return known, position

    def _after(self, position: int) -> int:
        """Where the bracket that opens here is closed."""
        depth = 0
        while position < len(self._tokens):
            depth += (self._at(position) in _CLOSING) - (self._at(position) in _CLOSING.values())
            position += 1
            if depth == 0:
                break
        return position

    def _at(self, position: int) -> str:
        return self._tokens[position] if position < len(self._tokens) else ""
