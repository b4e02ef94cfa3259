"""Skills that look for security problems: in source files, and in requirements files.

The tools behind them are imported where they are used: a program that only sends these tasks needs
none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from hive.skills import skill
from hive.tasks.source_tree import files_of, find_path


class ScanPathInput(BaseModel):
    """What `scan_path` takes: a file or directory, and where to look for it.

    root: the directory under which it is looked for when it does not exist as given.
    """

    path: str = Field(min_length=1)
    root: str | None = None


class ScanRequirementsInput(BaseModel):
    """What `scan_requirements` takes: a requirements file, or a directory that has one.

    root: the directory under which it is looked for.
    """

    path: str = Field("requirements.txt", min_length=1)
    root: str | None = None


def scannable_files(path: str) -> list[str]:
    """The files at or below `path` that `scan_path` can scan, as absolute paths in order: the items
    of a map over a tree.

    Raises: ScanError when there is no such path.
    """
    files, _ = files_of(find_path(path, None))
    return [str(file) for file in files]


@skill(
    "Scan a file or directory for security problems and secrets",
    intents=(
        "scan",
        "scan file",
        "scan directory",
        "scan source",
        "scan code",
        "security audit",
        "security scan",
        "scan repository",
        "find secrets",
        "find leaked secrets",
        "find vulnerabilities",
        "vulnerabilities in code",
        "secrets in file",
        "secrets in directory",
        "files contain secrets",
        "file is safe",
        "code is safe",
    ),
    input=ScanPathInput,
)
def scan_path(path: str, root: str | None = None) -> dict[str, Any]:
    """Scan Python files with bandit, and all text files with detect-secrets.

    path: a file or directory on the node.
    root: where to look for it when it does not exist as given.

    A file costs at most 10 s of CPU; what was not scanned by then is said.

    Returns: path (absolute), summary (files, findings, high, medium, low, skipped), findings (tool,
        rule, severity, confidence, path, line, text; the gravest first), skipped (path, reason, and
        `unread` True where it should have been scanned and could not be).
    Raises: ScanError when there is no such path.
    """
    from hive.tasks.source_scan import scan_tree

    return scan_tree(find_path(path, root)).model_dump()


@skill(
    "Check a requirements file for packages that are not pinned or have no hash",
    intents=(
        "requirements",
        "requirements.txt",
        "dependencies",
        "scan requirements",
        "scan dependencies",
        "check dependencies",
        "security of dependencies",
        "dependencies of repository",
        "vulnerabilities in requirements",
        "vulnerabilities in dependencies",
        "requirements are safe to install",
        "dependencies are safe",
        "find unpinned requirements",
        "check pins of requirements",
        "check hashes of requirements",
    ),
    input=ScanRequirementsInput,
)
def scan_requirements(path: str = "requirements.txt", root: str | None = None) -> dict[str, Any]:
    """Check a requirements file and the files it includes: unpinned, direct URL, version control,
    missing hash, unparsable.

    path: a requirements file, or a directory that has a requirements.txt, on the node. root: where
        to look for it when it does not exist as given; includes are followed within it.

    Returns: as scan_path, and the number of requirements.
    Raises: ScanError when there is no such file, or it is no text.
    """
    from hive.tasks.requirements_scan import scan_requirements_file

    return scan_requirements_file(find_path(path, root), Path(root) if root else None).model_dump()
