"""Security problems in source files: bandit for Python, detect-secrets for every text file."""

from __future__ import annotations

from pathlib import Path

from hive.tasks.findings import Finding, Report
from hive.tasks.scanner.process import scan_file
from hive.tasks.source_tree import files_of


def scan_tree(path: Path) -> Report:
    """Scan a file, or all files below a directory.

    Returns: the report; a file that one of the tools cannot read is among its skipped.
    """
    files, skipped = files_of(path)
    findings: list[Finding] = []
    for file in files:
        found, unread = scan_file(file)
        findings += found
        skipped += unread
    return Report.of(str(path), len(files), findings, skipped)
