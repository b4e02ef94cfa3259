"""`hive scan`: a source tree, scanned for security problems on all nodes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from hive.cli.output import (
    Bar,
    console,
    exit_code,
    json_option,
    note,
    print_json,
    seconds,
    short,
    table,
)
from hive.errors import InvalidInputError

if TYPE_CHECKING:
    from hive.cli.cluster import Cluster
    from hive.jobs.state.outcomes import Outcome

LEVELS = ("HIGH", "MEDIUM", "LOW")
_REQUIREMENTS = re.compile(r"(.*[-_.])?requirements([-_.].*)?\.(txt|in|lock)", re.IGNORECASE)
_SHOWN = 200


@click.command("scan", short_help="Scan a source tree for security problems.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--fail-on",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Exit code 1 for a finding this grave or graver.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Deadline, the wait for a spore included.",
)
@json_option
def scan(*, path: Path, fail_on: str | None, timeout: float | None, as_json: bool) -> int:
    """Scan the files at or below PATH for security problems and secrets, and its requirements files
    for loose pins.

    The nodes read the files themselves: PATH must lead to the same files on them. Exit code 4: some
        files could not be scanned.

    \b
    Example:
      hive scan src
      hive scan . --fail-on high --json
    """
    from hive.cli.cluster import connected

    began = time.monotonic()
    with connected() as cluster:
        scanned = _run(cluster, path, timeout)
    files = {file for file, _ in scanned}
    findings = findings_of(outcome for _, outcome in scanned)
    failures = [
        {"path": file, "error": outcome.error}
        for file, outcome in scanned
        if outcome.status != "ok"
    ]
    if as_json:
        skipped = [
            left
            for _, outcome in scanned
            if outcome.status == "ok"
            for left in outcome.value["skipped"]
        ]
        print_json(
            {
                "path": str(path.absolute()),
                "files": len(files),
                "findings": findings,
                "skipped": skipped,
                "failures": failures,
            }
        )
    else:
        show_findings(findings, console(), limit=_SHOWN, here=Path.cwd())
        for failure in failures[:10]:
            note(f"not scanned: {failure['path']}: {failure['error']}")
        note(
            f"{len(files)} files, {len(findings)} findings, {len(failures)} scans failed, in "
            f"{seconds(time.monotonic() - began)}"
        )
    if fail_on and any(
        LEVELS.index(found["severity"]) <= LEVELS.index(fail_on.upper()) for found in findings
    ):
        return 1
    return exit_code(len(scanned) - len(failures), len(failures))


def findings_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """The findings of all reports, each once, the gravest first."""
    found = {
        (one["tool"], one["rule"], one["path"], one["line"]): one
        for outcome in outcomes
        if outcome.status == "ok"
        for one in outcome.value["findings"]
    }
    return sorted(
        found.values(), key=lambda one: (LEVELS.index(one["severity"]), one["path"], one["line"])
    )


def show_findings(
    findings: Sequence[dict[str, Any]], out: Console, *, limit: int, here: Path
) -> None:
    """Print a table of findings, the first `limit` of them; paths are relative to `here`."""
    if not findings:
        return
    rows = [
        (
            one["severity"].lower(),
            one["rule"],
            f"{_relative(one['path'], here)}:{one['line']}",
            short(one["text"], 90),
        )
        for one in findings[:limit]
    ]
    title = f"{len(findings)} findings" + (
        f", the {limit} gravest" if len(findings) > limit else ""
    )
    out.print(table(title, ("severity", "rule", "where", "what"), rows))


def _relative(path: str, here: Path) -> str:
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _run(cluster: Cluster, path: Path, timeout: float | None) -> list[tuple[str, Outcome]]:
    """Map the two skills over the tree.

    Returns: each file with its outcome. Raises: InvalidInputError when there is nothing to scan.
    """
    from hive.cli.cluster import wait_for_spore
    from hive.cli.follow import watched
    from hive.jobs.mapping import map as hive_map
    from hive.tasks.scan import scan_path, scan_requirements, scannable_files
    from hive.tasks.source_tree import files_of

    files = scannable_files(str(path))
    loose = [
        str(file) for file in files_of(path.absolute())[0] if _REQUIREMENTS.fullmatch(file.name)
    ]
    if not files and not loose:
        raise InvalidInputError(f"There is nothing to scan at {path}: no text file below 1 MiB.")
    left = wait_for_spore(cluster, timeout)
    work = [
        (items, hive_map(skill, items, timeout=left, app=cluster.app))
        for skill, items in ((scan_path, files), (scan_requirements, loose))
    ]
    scanned = []
    try:
        for items, job in work:
            with watched(job, cluster, Bar(f"scan {len(items)} files")):
                scanned += [(items[outcome.index], outcome) for outcome in job]
    except KeyboardInterrupt:
        for _, job in work:
            job.cancel()
        raise
    return scanned
