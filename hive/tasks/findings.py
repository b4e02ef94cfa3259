"""What scans report: typed findings, what was skipped and why, and the counts."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["HIGH", "MEDIUM", "LOW"]


class Finding(BaseModel):
    """One thing that a tool found.

    `rule` is the tool's own id for it; `text` never repeats a secret.
    """

    model_config = ConfigDict(frozen=True)

    tool: Literal["bandit", "detect-secrets", "requirements"]
    rule: str
    severity: Level
    confidence: Level
    path: str
    line: int
    text: str


class Skipped(BaseModel):
    """A file or directory that was not scanned, wholly or by one tool, and why.

    unread: it should have been scanned and could not be, so nothing is known of it; what is left
        out on purpose (links, images, installed packages) has no such field.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    reason: str
    unread: bool = Field(False, exclude_if=operator.not_)


class Summary(BaseModel):
    """Counts of a report; `files` were read, `high`,
    `medium` and `low` are findings by severity.
    """

    model_config = ConfigDict(frozen=True)

    files: int
    findings: int
    high: int
    medium: int
    low: int
    skipped: int


class Report(BaseModel):
    """What a scan found, the gravest first."""

    model_config = ConfigDict(frozen=True)

    path: str
    summary: Summary
    findings: list[Finding]
    skipped: list[Skipped]

    @classmethod
    def of(
        cls, path: str, files: int, findings: Iterable[Finding], skipped: Iterable[Skipped]
    ) -> Report:
        """Gather a report; what was found twice is in it once."""
        order = ("HIGH", "MEDIUM", "LOW")
        unique = sorted(
            dict.fromkeys(findings),
            key=lambda found: (order.index(found.severity), found.path, found.line),
        )
        left_out = list(dict.fromkeys(skipped))
        levels = Counter(found.severity for found in unique)
        summary = Summary(
            files=files,
            findings=len(unique),
            high=levels["HIGH"],
            medium=levels["MEDIUM"],
            low=levels["LOW"],
            skipped=len(left_out),
        )
        return cls(path=path, summary=summary, findings=unique, skipped=left_out)
