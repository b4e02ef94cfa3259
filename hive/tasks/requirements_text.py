"""The text of a requirements file, as pip reads it: its encoding, its lines, their options."""

from __future__ import annotations

import locale
import optparse
import re
import shlex
from collections.abc import Iterator
from typing import NoReturn

from hive.tasks.charset import marked_charset

_FILE = re.compile(r"(.*[-_.])?requirements([-_.].*)?\.(txt|in|lock)", re.IGNORECASE)
_CODING = re.compile(rb"coding[:=]\s*([-\w.]+)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_STRONG_HASHES = ("sha256", "sha384", "sha512")
_OPTIONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-i", "--index-url", "--pypi-url"), "store", "index"),
    (("--extra-index-url",), "append", "indexes"),
    (("-f", "--find-links"), "append", "links"),
    (("-c", "--constraint"), "append", "constraints"),
    (("-r", "--requirement"), "append", "requirements"),
    (("-e", "--editable"), "append", "editables"),
    (("--trusted-host",), "append", "hosts"),
    (("--hash",), "append", "hashes"),
    (("--no-binary",), "append", "others"),
    (("--only-binary",), "append", "others"),
    (("--use-feature",), "append", "others"),
    (("--global-option",), "append", "others"),
    (("-C", "--config-setting", "--config-settings"), "append", "others"),
    (("--all-releases",), "append", "others"),
    (("--only-final",), "append", "others"),
    (("--no-index",), "store_true", "switch"),
    (("--prefer-binary",), "store_true", "switch"),
    (("--require-hashes",), "store_true", "switch"),
    (("--pre",), "store_true", "switch"),
)


class RefusedError(Exception):
    """pip does not take the line."""


class _Parser(optparse.OptionParser):
    """pip parses options with the same library, abbreviations and all."""

    def error(self, msg: str) -> NoReturn:
        raise RefusedError(msg)


def is_requirements_file(name: str) -> bool:
    """Whether a file of this name is one of requirements."""
    return _FILE.fullmatch(name) is not None


def decoded(content: bytes) -> str:
    """The text of a requirements file.

    Its encoding is that of its byte order mark (PowerShell's `pip freeze >` writes UTF-16), else
    the one that a comment in the first two lines declares, else UTF-8, else that of the machine.

    Raises: UnicodeDecodeError; LookupError when it declares an encoding that there is not.
    """
    if marked := marked_charset(content):
        return content.decode(marked)
    for line in content.split(b"\n")[:2]:
        declared = _CODING.search(line) if line.startswith(b"#") else None
        if declared is not None:
            return content.decode(declared[1].decode("ascii"))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode(locale.getencoding())


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, continued ones joined, each with the number of its first line."""
    for number, line in _joined(text):
        complete = _COMMENT.sub("", line).strip()
        if complete:
            yield number, complete


def _joined(text: str) -> Iterator[tuple[int, str]]:
    start, parts = 0, list[str]()
    for number, written in enumerate(text.splitlines(), 1):
        comment = _COMMENT.match(written) is not None
        if written.endswith("\\") and not comment:
            start = start if parts else number
            parts.append(written.strip("\\"))
            continue
        # With a blank before it, a comment is one also behind what it continues.
        parts.append(f" {written}" if comment else written)
        yield (start if len(parts) > 1 else number), "".join(parts)
        parts = []
    if parts:
        yield start, "".join(parts)


def split_options(line: str) -> tuple[str, optparse.Values]:
    """The requirement of a line, "" when it has none, and the line's options.

    Raises: RefusedError when pip would.
    """
    words = line.split(" ")
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    try:
        given = shlex.split(" ".join(words[first:]))
    except ValueError as error:
        raise RefusedError(f"its options cannot be split ({error})") from None
    parser = _Parser(add_help_option=False)
    for names, action, field in _OPTIONS:
        parser.add_option(*names, action=action, dest=field)
    options, _ = parser.parse_args(given)
    for value in options.hashes or ():
        algorithm, _, digest = value.partition(":")
        if algorithm not in _STRONG_HASHES or not digest:
            raise RefusedError(f"--hash takes {', '.join(_STRONG_HASHES)}: and a digest")
    return " ".join(words[:first]), options
