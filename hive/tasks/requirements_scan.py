"""Problems of requirements files, in pip's format.

They are requirements that are not pinned, come from an address of their own, or have no hash.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from hive.errors import ScanError
from hive.tasks.findings import Finding, Level, Report, Skipped

_LARGEST = 1024 * 1024
_COMMENT = re.compile(r"(^|\s+)#.*$")
_LOGIN = re.compile(r"//[^/@\s]+@")
_ADDRESS = re.compile(r"(?:https?|ftp|file):", re.IGNORECASE)
_VERSION_CONTROL = re.compile(r"(?:git|hg|svn|bzr)\+", re.IGNORECASE)
_LOCAL = re.compile(
    r"(?:\.{0,2}/|~/|\.{1,2}(?:\[|$))|\S+\.(?:whl|zip|tar\.gz|tgz|tar\.bz2)(?:\[.*\])?$",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"@[0-9a-f]{40}(?:#|$)")
_HASH = re.compile(r"--hash[=\s]\s*\w+:[0-9a-f]+|#(?:.*&)?(?:sha256|sha384|sha512)=[0-9a-f]+")
_ITS_OPTIONS = re.compile(
    r"\s+--(?:hash|config-settings?|global-option|install-option|python-version)\b"
)

_INCLUDES = {
    "-r": "requirement",
    "--requirement": "requirement",
    "-c": "constraint",
    "--constraint": "constraint",
}
_INDEXES = frozenset({"-i", "--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links"})
_OPTIONS = frozenset(
    {
        "--no-index",
        "--no-binary",
        "--only-binary",
        "--prefer-binary",
        "--require-hashes",
        "--pre",
        "--use-feature",
    }
)


class RequirementsReport(Report):
    """A report that also counts the requirements read."""

    requirements: int


@dataclass(slots=True)
class _Scan:
    base: Path
    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)
    constrained: set[str] = field(default_factory=set)
    unpinned: list[tuple[str, Finding]] = field(default_factory=list)
    requirements: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    path: Path
    number: int
    text: str
    constraint: bool

    def finding(self, rule: str, severity: Level, text: str) -> Finding:
        where = str(self.path)
        return Finding(
            tool="requirements",
            rule=rule,
            severity=severity,
            confidence="HIGH",
            path=where,
            line=self.number,
            text=_hide_login(text),
        )


def scan_requirements_file(path: Path, root: Path | None = None) -> RequirementsReport:
    """Scan a requirements file, or that of a directory, and the files that it includes.

    Includes (-r, -c) are followed within `root`, by default the file's own directory, each file
    once. A requirement that a constraints file pins counts as pinned.

    Raises: ScanError when there is no such file, or it is no UTF-8 text of at most 1 MiB.
    """
    file = path / "requirements.txt" if path.is_dir() else path
    if not file.is_file():
        raise ScanError(f"There is no requirements.txt in {str(path)!r}.")
    inside = root is not None and file.resolve().is_relative_to(root.resolve())
    scan = _Scan(root.resolve() if root and inside else file.parent.resolve())
    _scan_file(scan, file, _read(file), constraint=False)
    findings = scan.findings + [
        finding for name, finding in scan.unpinned if name not in scan.constrained
    ]
    report = Report.of(str(file), len(scan.seen), findings, scan.skipped)
    return RequirementsReport(**dict(report), requirements=scan.requirements)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST:
            raise ScanError(f"{str(file)!r} is larger than 1 MiB, which no requirements file is.")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ScanError(f"{str(file)!r} is not UTF-8 text.") from None
    except OSError as error:
        raise ScanError(f"{str(file)!r} cannot be read: {error.strerror}.") from None


def _scan_file(scan: _Scan, file: Path, text: str, *, constraint: bool) -> None:
    scan.seen.add(file.resolve())
    for number, line in _logical_lines(text):
        entry = _Line(file, number, line, constraint)
        if line.startswith("-"):
            _scan_option(scan, entry)
        else:
            _scan_requirement(scan, entry)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, continued ones joined, each with the number of its first line."""
    start, joined = 0, ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        start = start if joined else number
        # As in pip, a comment ends a continued line, even where the comment ends in a backslash.
        if line.endswith("\\") and not _COMMENT.search(line) and number < len(lines):
            joined += line[:-1] + " "
            continue
        complete = _COMMENT.sub("", joined + line.rstrip("\\")).strip()
        joined = ""
        if complete:
            yield start, complete


def _scan_option(scan: _Scan, line: _Line) -> None:
    name, value = _option(line.text)
    if name in ("-e", "--editable") and value:
        _scan_requirement(scan, _Line(line.path, line.number, value, line.constraint))
    elif name in _INCLUDES and value:
        _include(scan, line, value, constraint=line.constraint or _INCLUDES[name] == "constraint")
    elif name == "--trusted-host" and value:
        scan.findings.append(
            line.finding("insecure-index", "HIGH", f"The certificate of {value} is not checked")
        )
    elif name in _INDEXES and value:
        if value.lower().startswith("http://"):
            scan.findings.append(
                line.finding(
                    "insecure-index", "HIGH", f"Packages come from {value} without encryption"
                )
            )
    elif name not in _OPTIONS:
        scan.findings.append(
            line.finding(
                "unparsable", "MEDIUM", f"Not an option of requirements files: {line.text}"
            )
        )


def _option(text: str) -> tuple[str, str]:
    """Name and value of `-r x`, `-rx`, `--requirement x`, `--requirement=x`."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    first = words[0]
    if first.startswith("--"):
        name, _, value = first.partition("=")
    else:
        name, value = first[:2], first[2:]
    return name, value or " ".join(words[1:])


def _include(scan: _Scan, line: _Line, value: str, *, constraint: bool) -> None:
    if "://" in value:
        scan.skipped.append(Skipped(path=_hide_login(value), reason="not in this directory tree"))
        return
    file = line.path.parent / value
    try:
        target = file.resolve()
        if not target.is_relative_to(scan.base):
            scan.skipped.append(Skipped(path=str(file), reason="not in this directory tree"))
        elif target not in scan.seen:
            _scan_file(scan, file, _read(file), constraint=constraint)
    except (ScanError, OSError, ValueError) as error:
        scan.findings.append(
            line.finding("unparsable", "MEDIUM", f"The included file cannot be read: {error}")
        )


def _scan_requirement(scan: _Scan, line: _Line) -> None:
    scan.requirements += not line.constraint
    text = _ITS_OPTIONS.split(line.text, maxsplit=1)[0].strip()
    if _VERSION_CONTROL.match(text) or _ADDRESS.match(text):
        _scan_address(scan, line, text)
        return
    if _LOCAL.match(text):
        scan.findings.append(
            line.finding("local-path", "LOW", f"Comes from a path of this machine: {text}")
        )
        return
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        scan.findings.append(
            line.finding("unparsable", "MEDIUM", f"Not a requirement: {str(error).splitlines()[0]}")
        )
        return
    if requirement.url:
        _scan_address(scan, line, requirement.url)
        return
    name = canonicalize_name(requirement.name)
    pinned = any(
        part.operator == "===" or (part.operator == "==" and not part.version.endswith(".*"))
        for part in requirement.specifier
    )
    if line.constraint:
        scan.constrained |= {name} if pinned else set()
    elif not pinned:
        wanted = str(requirement.specifier) or "any version"
        scan.unpinned.append(
            (
                name,
                line.finding(
                    "unpinned",
                    "MEDIUM",
                    f"{requirement.name} is not pinned to one version ({wanted})",
                ),
            )
        )
    elif not _HASH.search(line.text):
        scan.findings.append(line.finding("missing-hash", "LOW", f"{requirement.name} has no hash"))


def _scan_address(scan: _Scan, line: _Line, address: str) -> None:
    secure = not re.match(r"(?:\w+\+)?(?:http|ftp|git|svn)://", address, re.IGNORECASE)
    plain = "" if secure else ", without encryption"
    severity: Level = "MEDIUM" if secure else "HIGH"
    if _VERSION_CONTROL.match(address):
        loose = "" if _COMMIT.search(address) else ", not at a fixed commit"
        scan.findings.append(
            line.finding("vcs", severity, f"Comes from version control{loose}{plain}: {address}")
        )
        return
    scan.findings.append(
        line.finding("direct-url", severity, f"Comes from an address of its own{plain}: {address}")
    )
    if not _HASH.search(line.text):
        scan.findings.append(line.finding("missing-hash", "LOW", f"No hash for {address}"))


def _hide_login(text: str) -> str:
    """Without the user names and passwords of addresses in it."""
    return _LOGIN.sub("//…@", text)
