"""Secrets in a text, by detect-secrets' detectors.

They take a line, and some of them a time that grows with its square: so a long line is looked at
in windows that overlap. They also cost as much for each line, whatever is in it: so short lines
are first looked at together, and one by one only by a detector that found something in them.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import _is_filtered_out
from detect_secrets.filters.allowlist import is_line_allowlisted
from detect_secrets.plugins.keyword import DENYLIST, KeywordDetector
from detect_secrets.settings import get_plugins, get_settings
from detect_secrets.transformers import get_transformed_file
from detect_secrets.util.code_snippet import get_code_snippet

from hive.tasks.findings import Finding, Level, Skipped
from hive.tasks.scanner.cpu_limit import Overtime, cpu_limit

# A secret and what tells it for one fit into the overlap. A window of 1,000 characters or less
# would meet a filter that passes over every line with a call in it.
_WINDOW = 3_000
_OVERLAP = 800
_MOST_OF_A_RULE = 1_000
# Seconds of CPU: a configuration file of 100 KiB is read in a tenth of it.
_FOR_READING = 1.0
# What the parsers of configuration files make of most of their lines, for files that are too large
# or too strange for them.
_SETTING = re.compile(r"^\s*(?:- )?([\w.-]+)\s*[:=]\s*([^\s\"'#\[{|>&].*?)(?:\s+#.*)?$")
_YAML = frozenset({".yaml", ".yml", ".eyaml"})
# The dearest detector has ten expressions, and each of them begins with one of its words.
_KEYWORD = re.compile("|".join(DENYLIST), re.IGNORECASE)
# detect-secrets does not weigh its findings: a key of a known form is certain, a random-looking
# string mostly something else.
_WEIGHTS: dict[str, Level] = {
    "KeywordDetector": "MEDIUM",
    "Base64HighEntropyString": "LOW",
    "HexHighEntropyString": "LOW",
    "IPPublicDetector": "LOW",
}


class _NamedText(io.StringIO):
    name = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line, or a window of a long one; `before` is the line before."""

    number: int
    text: str
    before: str


@dataclass(slots=True)
class _Search:
    file: Path
    until: float
    """The process' CPU time when it ends."""
    findings: dict[str, dict[int, Finding]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.until - time.process_time()


def scan_text(file: Path, text: str, seconds: float) -> tuple[list[Finding], list[Skipped]]:
    """The secrets of a file's text, searched with at most so many seconds of CPU, and why not all
    of it was.
    """
    search = _Search(file, time.process_time() + seconds)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    _search_in_time(search, _as_configuration(search, text, lines, eager=False) or lines)
    if not search.findings and not search.troubles:
        # A file without headings may still be lines of `key = value`.
        _search_in_time(search, _as_configuration(search, text, lines, eager=True) or [])
    return (
        [found for by_line in search.findings.values() for found in by_line.values()],
        [
            Skipped(path=str(file), reason=f"not fully searched for secrets: {why}", unread=True)
            for why in search.troubles[:1]
        ],
    )


def _as_configuration(
    search: _Search, text: str, lines: list[str], *, eager: bool
) -> list[str] | None:
    """The values of a configuration file as quoted lines; None for another file."""
    if len(max(lines, key=len)) > _WINDOW and search.file.suffix.lower() not in _YAML:
        # The parser of the other formats makes an expression of every key.
        return None
    named = _NamedText(text)
    named.name = str(search.file)
    try:
        with cpu_limit(min(_FOR_READING, search.left)):
            return get_transformed_file(cast("Any", named), use_eager_transformers=eager)
    except (Overtime, Exception):  # noqa: BLE001 - whatever the parsers make of it
        return [_SETTING.sub(r'\1: "\2"', line) for line in lines]


def _search_in_time(search: _Search, lines: list[str]) -> None:
    try:
        with cpu_limit(search.left):
            for block in _blocks(search.file, lines):
                _search_block(search, block)
    except Overtime:
        search.troubles.append("it takes too long")


def _blocks(file: Path, lines: list[str]) -> Iterator[list[_Piece]]:
    """The lines in pieces, as many together as a window has room for."""
    block: list[_Piece] = []
    room = _WINDOW
    for piece in _pieces(file, lines):
        if block and len(piece.text) > room:
            yield block
            block, room = [], _WINDOW
        block.append(piece)
        room -= len(piece.text) + 1
    if block:
        yield block


def _pieces(file: Path, lines: list[str]) -> Iterator[_Piece]:
    before = ""
    for number, written in enumerate(lines, 1):
        line = written.rstrip()
        if len(line) <= _WINDOW:
            if line:
                yield _Piece(number, line, before)
        elif not is_line_allowlisted(
            str(file), line[-_OVERLAP:], _context(before[-_OVERLAP:], line)
        ):
            for start in range(0, len(line) - _OVERLAP, _WINDOW - _OVERLAP):
                yield _Piece(number, line[start : start + _WINDOW], before[-_OVERLAP:])
        before = line


def _search_block(search: _Search, block: list[_Piece]) -> None:
    together = "\n".join(["", *(piece.text for piece in block), ""])
    for detector in _detectors():
        rule = type(detector).__name__
        found = search.findings.get(rule, {})
        try:
            if not _may_find(detector, search.file, together):
                continue
            for piece in block:
                if len(found) >= _MOST_OF_A_RULE:
                    search.troubles.append(f"more than {_MOST_OF_A_RULE} findings of {rule}")
                    break
                if _is_in(search.file, piece, detector):
                    found[piece.number] = _finding(search.file, piece.number, detector)
        except Exception as error:  # noqa: BLE001 - whatever a detector makes of it
            search.troubles.append(f"{rule} failed at line {block[0].number} ({error!r})")
        if found:
            search.findings[rule] = found


def _may_find(detector: Any, file: Path, text: str) -> bool:
    """Whether the detector finds anything in lines that it is shown as one. What it finds in a line
    it finds there, too: the detectors look for a place, and a line's end is one for all of them.
    """
    if isinstance(detector, KeywordDetector) and not _KEYWORD.search(text):
        return False
    return bool(detector.analyze_line(str(file), text))


def _is_in(file: Path, piece: _Piece, detector: Any) -> bool:
    """Whether the detector finds a secret in the piece that no filter knows for something else."""
    name, context = str(file), _context(piece.before, piece.text)
    secrets = detector.analyze_line(name, piece.text, piece.number, context=context)
    if not secrets or _is_filtered_out(
        required_filter_parameters=["line"], filename=name, line=piece.text, context=context
    ):
        return False
    return any(
        not _is_filtered_out(
            required_filter_parameters=["secret"],
            filename=name,
            secret=secret.secret_value,
            plugin=detector,
            line=piece.text,
        )
        for secret in secrets
    )


def _context(before: str, line: str) -> Any:
    return get_code_snippet([before, line], 2)


def _finding(file: Path, line: int, detector: Any) -> Finding:
    rule = type(detector).__name__
    weight = _WEIGHTS.get(rule, "HIGH")
    return Finding(
        tool="detect-secrets",
        rule=rule,
        severity=weight,
        confidence=weight,
        path=str(file),
        line=line,
        text=f"Possible secret: {detector.secret_type}",
    )


@lru_cache
def _detectors() -> list[Any]:
    """All detectors; sets detect-secrets up on first use."""
    kinds: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
    settings = get_settings()
    settings.configure_plugins([{"name": kind.__name__} for kind in kinds.values()])
    return list(get_plugins())
