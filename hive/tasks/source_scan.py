"""Security problems in source files: bandit for Python, detect-secrets for every text file, one
file at a time.

detect-secrets' own way over a directory starts a pool of processes, which Celery's pool processes
may not; its scan of a single file does not. Both tools are set up once a process, so that a scan of
one file costs only that file.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.filters.heuristic import is_lock_file, is_non_text_file
from detect_secrets.settings import get_settings

from hive.tasks.findings import Finding, Level, Report, Skipped
from hive.tasks.source_tree import files_of

_PYTHON = frozenset({".py", ".pyw"})
# The texts of these rules quote the password that they found.
_QUOTING_RULES = frozenset({"B105", "B106", "B107"})
_QUOTED = re.compile(r"'.*'", re.DOTALL)
# detect-secrets does not weigh its findings: a key of a known form is certain, a random-looking
# string mostly something else.
_WEIGHTS: dict[str, Level] = {
    "KeywordDetector": "MEDIUM",
    "Base64HighEntropyString": "LOW",
    "HexHighEntropyString": "LOW",
    "IPPublicDetector": "LOW",
}
_setup = threading.Lock()


def scan_tree(path: Path) -> Report:
    """Scan a file, or all files below a directory.

    Returns: the report; a file that one of the tools cannot read is among its skipped.
    """
    files, skipped = files_of(path)
    findings: list[Finding] = []
    read = 0
    for file in files:
        python = file.suffix.lower() in _PYTHON
        secrets = _reason_against_secrets(file)
        if secrets and not python:
            skipped.append(Skipped(path=str(file), reason=secrets))
            continue
        read += 1
        if python:
            findings += _bandit(file, skipped)
        if secrets:
            skipped.append(Skipped(path=str(file), reason=f"{secrets}; not searched for secrets"))
        else:
            findings += _secrets(file)
    return Report.of(str(path), read, findings, skipped)


def searchable(files: Iterable[Path]) -> list[Path]:
    """Those of `files` that at least one of the tools reads."""
    return [
        file
        for file in files
        if file.suffix.lower() in _PYTHON or _reason_against_secrets(file) is None
    ]


def _bandit(file: Path, skipped: list[Skipped]) -> Iterator[Finding]:
    # A manager collects for ever, and costs nothing to make: a fresh one for each file.
    manager = _bandit_manager()()
    manager.discover_files([str(file)])
    with warnings.catch_warnings():
        # Parsing repeats the compiler's warnings about the scanned code.
        warnings.simplefilter("ignore")
        manager.run_tests()
    skipped.extend(
        Skipped(path=str(file), reason=f"bandit: {reason}") for _, reason in manager.get_skipped()
    )
    for issue in manager.get_issue_list():
        text = _QUOTED.sub("'…'", issue.text) if issue.test_id in _QUOTING_RULES else issue.text
        yield Finding(
            tool="bandit",
            rule=issue.test_id,
            severity=_level(issue.severity),
            confidence=_level(issue.confidence),
            path=str(file),
            line=issue.lineno,
            text=" ".join(text.split()),
        )


def _secrets(file: Path) -> Iterator[Finding]:
    detectors = _secret_detectors()
    for secret in scan_file(str(file)):
        rule = detectors[secret.type]
        weight = _WEIGHTS.get(rule, "HIGH")
        text = f"Possible secret: {secret.type}"
        yield Finding(
            tool="detect-secrets",
            rule=rule,
            severity=weight,
            confidence=weight,
            path=str(file),
            line=secret.line_number,
            text=text,
        )


def _reason_against_secrets(file: Path) -> str | None:
    """Why detect-secrets would pass over a file without a word."""
    if is_lock_file(str(file)):
        return "a lock file"
    if is_non_text_file(str(file)):
        return f"{file.suffix} files are not scanned"
    try:
        file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _level(value: str) -> Level:
    """Bandit's levels; what it calls UNDEFINED is LOW here."""
    return "HIGH" if value == "HIGH" else "MEDIUM" if value == "MEDIUM" else "LOW"


@lru_cache
def _bandit_manager() -> Callable[[], Any]:
    """What makes bandit's managers; the first call imports bandit and its plugins."""
    from stevedore import _cache

    with suppress(AttributeError):
        # stevedore, which finds the plugins, would keep a cache of them in the home directory of
        # the node's user.
        _cache._c._disable_caching = True
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager

    return partial(BanditManager, BanditConfig(), "file")


@lru_cache
def _secret_detectors() -> dict[str, str]:
    """The rule of each type of secret; sets detect-secrets up on first use."""
    with _setup:
        mapping: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
        rules = {kind: detector.__name__ for kind, detector in mapping.items()}
        settings = get_settings()
        settings.configure_plugins([{"name": name} for name in rules.values()])
        # This filter passes over every file with "swagger" anywhere in its path, and so over a
        # whole tree below such a directory.
        settings.disable_filters("detect_secrets.filters.heuristic.is_swagger_file")
        return rules
