"""Problems of requirements files, in pip's format.

They are requirements that are not pinned, come from an address of their own, or have no hash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from optparse import Values
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from hive.errors import ScanError
from hive.tasks.findings import Finding, Level, Report, Skipped
from hive.tasks.requirements_text import RefusedError, decoded, logical_lines, split_options

_LARGEST = 1024 * 1024
_LOGIN = re.compile(r"//[^/@\s]+@")
_ADDRESS = re.compile(r"(?:https?|ftp|file):", re.IGNORECASE)
_VERSION_CONTROL = re.compile(r"(?:git|hg|svn|bzr)\+", re.IGNORECASE)
_LOCAL = re.compile(
    r"(?:\.{0,2}/|~/|\.{1,2}(?:\[|$)|[\w.-]+/)|"
    r"\S+\.(?:whl|zip|tar\.gz|tgz|tar\.bz2)(?:\[.*\])?$",
    re.IGNORECASE,
)
# What pip replaces by a variable of its environment. The node's environment is another one, and no
# business of who wrote the file.
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_COMMIT = re.compile(r"@[0-9a-f]{40}(?:#|$)")
_HASH_IN_ADDRESS = re.compile(r"#(?:.*&)?(?:sha256|sha384|sha512)=[0-9a-f]+")


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

    Raises: ScanError when there is no such file, or it is no text of at most 1 MiB.
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
        return decoded(file.read_bytes())
    except UnicodeDecodeError as error:
        raise ScanError(
            f"{str(file)!r} is not UTF-8 text, nor in an encoding that it declares ({error})."
        ) from None
    except LookupError as error:
        raise ScanError(
            f"{str(file)!r} declares an encoding that pip cannot read: {error}."
        ) from None
    except OSError as error:
        raise ScanError(f"{str(file)!r} cannot be read: {error.strerror}.") from None


def _scan_file(scan: _Scan, file: Path, text: str, *, constraint: bool) -> None:
    scan.seen.add(file.resolve())
    for number, line in logical_lines(text):
        entry = _Line(file, number, line, constraint)
        try:
            requirement, options = split_options(line)
        except RefusedError as error:
            scan.findings.append(
                entry.finding("unparsable", "MEDIUM", f"pip refuses this line: {error}: {line}")
            )
            continue
        if requirement:
            _scan_requirement(scan, entry, requirement, hashed=bool(options.hashes))
        elif options.editables:
            _scan_editable(scan, entry, options.editables[0])
        elif options.requirements:
            _include(scan, entry, options.requirements[0], constraint=False)
        elif options.constraints:
            _include(scan, entry, options.constraints[0], constraint=True)
        else:
            _scan_sources(scan, entry, options)


def _scan_sources(scan: _Scan, line: _Line, options: Values) -> None:
    """Options that say where packages come from."""
    for host in options.hosts or ():
        scan.findings.append(
            line.finding("insecure-index", "HIGH", f"The certificate of {host} is not checked")
        )
    for address in (options.index, *(options.indexes or ()), *(options.links or ())):
        if address and address.lower().startswith("http://"):
            scan.findings.append(
                line.finding(
                    "insecure-index", "HIGH", f"Packages come from {address} without encryption"
                )
            )


def _scan_editable(scan: _Scan, line: _Line, value: str) -> None:
    if _VERSION_CONTROL.match(value) or _ADDRESS.match(value) or _LOCAL.match(value):
        _scan_requirement(scan, line, value, hashed=False)
        return
    # What is installed editable is never looked for in an index.
    scan.requirements += not line.constraint
    scan.findings.append(_local(line, value))


def _local(line: _Line, text: str) -> Finding:
    return line.finding("local-path", "LOW", f"Comes from a path of this machine: {text}")


def _include(scan: _Scan, line: _Line, value: str, *, constraint: bool) -> None:
    if "://" in value:
        scan.skipped.append(Skipped(path=_hide_login(value), reason="not in this directory tree"))
        return
    if _VARIABLE.search(value):
        scan.skipped.append(
            Skipped(path=value, reason="named by an environment variable", unread=True)
        )
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


def _scan_requirement(scan: _Scan, line: _Line, text: str, *, hashed: bool) -> None:
    scan.requirements += not line.constraint
    if _VERSION_CONTROL.match(text) or _ADDRESS.match(text):
        _scan_address(scan, line, text, hashed=hashed)
        return
    if _LOCAL.match(text):
        scan.findings.append(_local(line, text))
        return
    try:
        requirement = Requirement(_VARIABLE.sub("0", text))
    except InvalidRequirement as error:
        scan.findings.append(
            line.finding("unparsable", "MEDIUM", f"Not a requirement: {str(error).splitlines()[0]}")
        )
        return
    if requirement.url:
        _scan_address(scan, line, requirement.url, hashed=hashed)
        return
    name = canonicalize_name(requirement.name)
    pinned = not _VARIABLE.search(text) and any(
        part.operator == "===" or (part.operator == "==" and not part.version.endswith(".*"))
        for part in requirement.specifier
    )
    if line.constraint:
        scan.constrained |= {name} if pinned else set()
    elif not pinned:
        wanted = str(requirement.specifier) or "any version"
        if _VARIABLE.search(text):
            wanted = text
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
    elif not hashed:
        scan.findings.append(line.finding("missing-hash", "LOW", f"{requirement.name} has no hash"))


def _scan_address(scan: _Scan, line: _Line, address: str, *, hashed: bool) -> None:
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
    if not hashed and not _HASH_IN_ADDRESS.search(line.text):
        scan.findings.append(line.finding("missing-hash", "LOW", f"No hash for {address}"))


def _hide_login(text: str) -> str:
    """Without the user names and passwords of addresses in it."""
    return _LOGIN.sub("//…@", text)
