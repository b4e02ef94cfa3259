"""What a description names exactly: addresses, paths, quoted text, numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

NUMBER_WORDS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
    "twenty": 20,
    "single": 1,
    "couple": 2,
    "dozen": 12,
}

_LONGEST_NUMBER = 18

_EXTENSIONS = (
    "py|pyi|txt|toml|cfg|ini|json|ya?ml|md|rst|jsx?|tsx?|sh|env|lock|html?|xml|csv|log|"
    "rs|go|java|kt|cc?|cpp|hh?|hpp|rb|php|pl|lua|sql|tf|conf|pem|key|in"
)
_URL = r"https?://[^\s<>\"'`]+"
_QUOTED = r"\"[^\"\n]+\"|“[^”\n]+”|`[^`\n]+`|(?<!\w)'[^'\n]+'(?!\w)"
_PATH = "|".join(
    [
        r"(?:~|\.{1,2})?/[\w.@+~/-]+|~/",  # /src, ./src, ~/src
        r"[\w.-]*\w/[\w.@+/-]*",  # src/app
        r"(?<!\S)\.{1,2}(?=\s|$)",  # . and ..
        rf"[\w.@+-]*\w\.(?:{_EXTENSIONS})(?!\w)|\.env(?!\w)",  # settings.py
    ]
)
_LITERAL = re.compile(rf"(?P<url>{_URL})|(?P<quoted>{_QUOTED})|(?P<path>(?<!\w)(?:{_PATH}))")
_TRAILING = ".,;:!?)]}"
_NO_PATH = re.compile(r"\d+/\d+|and/or|yes/no|either/or|his/her", re.IGNORECASE)
_PATH_ONLY = re.compile(_PATH)


@dataclass(frozen=True, slots=True)
class Literal:
    """One exact value: kind url, path or text.

    `names`: the words that it brings into the description.
    """

    kind: str
    value: str

    @property
    def names(self) -> tuple[str, ...]:
        if self.kind == "url":
            return ("url",)
        if self.kind == "text":
            return ()
        name = PurePosixPath(self.value).name.lower()
        parts = re.findall(r"[a-z]+", name.rsplit(".", 1)[0])
        return (name, *parts) if "." in name.strip(".") else tuple(parts)


def split_literals(text: str) -> tuple[str, list[Literal]]:
    """The text with a NUL in place of each literal, and the literals in order."""
    found: list[Literal] = []

    def keep(match: re.Match[str]) -> str:
        value = match.group()
        if match.lastgroup == "path" and _NO_PATH.fullmatch(value):
            return value.replace("/", " ")
        if match.lastgroup == "quoted":
            found.append(_quoted(value[1:-1].strip()))
            return " \0 "
        kept = value.rstrip(_TRAILING) or value
        found.append(Literal(str(match.lastgroup), kept))
        return f" \0 {value[len(kept) :]}"

    return _LITERAL.sub(keep, text.replace("\0", " ")), found


def _quoted(value: str) -> Literal:
    if re.fullmatch(_URL, value):
        return Literal("url", value)
    return Literal("path" if _PATH_ONLY.fullmatch(value) else "text", value)


def numbers_value(word: str) -> int | None:
    """3 for `3` and `three`; None for another word, and for digits that count nothing."""
    if word.isdecimal() and len(word) <= _LONGEST_NUMBER:
        return int(word)
    return NUMBER_WORDS.get(word)
