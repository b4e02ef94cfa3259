"""`hive scan`: a source tree, scanned for security problems on all nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console

from hive.cli.items import Seconds
from hive.cli.output import (
    Bar,
    console,
    ends_json_by,
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


class _Item(NamedTuple):
    """A file, and how a skill is asked to scan it."""

    skill: Any
    file: str
    argument: str | dict[str, Any]


LEVELS = ("HIGH", "MEDIUM", "LOW")
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
    type=Seconds(),
    metavar="SECONDS",
    help="Deadline, the wait for a spore included.",
)
@json_option
def scan(*, path: Path, fail_on: str | None, timeout: float | None, as_json: bool) -> int:
    """Scan the files at or below PATH for security problems and secrets, and its requirements files
    for loose pins.

    The nodes read the files themselves: PATH must lead to the same files on them. Exit code 4: some
        files could not be scanned, or not fully; 1: none could, or with --fail-on any.

    \b
    Example:
      hive scan src
      hive scan . --fail-on high --json
    """
    from hive.cli.cluster import connected

    began = time.monotonic()
    items, skipped = _survey(path)
    scanned: list[tuple[str, Outcome | None]] = []
    if items:
        with connected() as cluster:
            if as_json:
                ends_json_by(lambda error: _answer_cut_off(path, scanned, error))
            _run(cluster, items, timeout, scanned)
    reports = [one.value for _, one in scanned if one is not None and one.status == "ok"]
    findings = findings_of(one for _, one in scanned if one is not None)
    skipped = _each_once([*skipped, *(left for report in reports for left in report["skipped"])])
    failures = [
        {"path": file, "error": one.error if one is not None else "not scanned in time"}
        for file, one in scanned
        if one is None or one.status != "ok"
    ]
    unread = [left for left in skipped if left.get("unread")]
    files = {file for file, _ in scanned} | {left["path"] for left in unread}
    failed = {one["path"] for one in (*unread, *failures)}
    if as_json:
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
        here = Path.cwd()
        show_findings(findings, console(), limit=_SHOWN, here=here)
        _show_failed([*failures, *unread], console(), here=here)
        note(
            f"{len(files)} files, {len(findings)} findings, {len(failed)} not scanned or not "
            f"fully, {len(skipped) - len(unread)} left out, in {seconds(time.monotonic() - began)}"
        )
    if fail_on and (
        failed
        or any(
            LEVELS.index(found["severity"]) <= LEVELS.index(fail_on.upper()) for found in findings
        )
    ):
        return 1
    return exit_code(len(files - failed), len(failed))


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


def _show_failed(failed: Sequence[dict[str, Any]], out: Console, *, here: Path) -> None:
    """Print a table of all that should have been scanned and was not."""
    if failed:
        rows = [(_relative(one["path"], here), one.get("error") or one["reason"]) for one in failed]
        out.print(table("not scanned, or not fully", ("what", "why"), rows))


def _relative(path: str, here: Path) -> str:
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _each_once(skipped: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(left["path"], left["reason"]): left for left in skipped}.values())


def _survey(path: Path) -> tuple[list[_Item], list[dict[str, Any]]]:
    """What is to be scanned at a path, and what is not and why.

    Raises: InvalidInputError when there is nothing that could be scanned.
    """
    from hive.tasks.requirements_text import is_requirements_file
    from hive.tasks.scan import scan_path, scan_requirements
    from hive.tasks.source_tree import files_of, find_path

    files, left_out = files_of(find_path(str(path), None))
    skipped = [left.model_dump() for left in left_out]
    loose = [str(file) for file in files if is_requirements_file(file.name)]
    if not files and not loose and not any(left.get("unread") for left in skipped):
        raise InvalidInputError(f"There is nothing to scan at {path}: no text file.")
    # A file may include others of the tree that is scanned.
    root = str(path.absolute()) if path.is_dir() else None
    return [
        *(_Item(scan_path, str(file), str(file)) for file in files),
        *(_Item(scan_requirements, file, {"path": file, "root": root}) for file in loose),
    ], skipped


def _run(
    cluster: Cluster,
    items: Sequence[_Item],
    timeout: float | None,
    scanned: list[tuple[str, Outcome | None]],
) -> None:
    """Map the skills over the items; adds to `scanned` each file with its outcome, None where it
    has none, also of what was done when it fails.
    """
    from hive.cli.cluster import wait_for_spore
    from hive.cli.follow import watched
    from hive.jobs.mapping import map as hive_map

    left = wait_for_spore(cluster, timeout)
    work = []
    for skill in dict.fromkeys(item.skill for item in items):
        its = [item for item in items if item.skill is skill]
        job = hive_map(skill, [item.argument for item in its], timeout=left, app=cluster.app)
        work.append((its, job))
    try:
        for its, job in work:
            outcomes: dict[int, Outcome] = {}
            try:
                with watched(job, cluster, Bar(f"scan {len(its)} files")):
                    outcomes.update((outcome.index, outcome) for outcome in job)
            finally:
                scanned += [(item.file, outcomes.get(index)) for index, item in enumerate(its)]
    except KeyboardInterrupt:
        for _, job in work:
            job.cancel()
        raise


def _answer_cut_off(path: Path, scanned: Sequence[tuple[str, Outcome | None]], error: str) -> None:
    """The JSON of a scan that did not come to its end: what it knows, and why it ended."""
    known = [(file, one) for file, one in scanned if one is not None]
    print_json(
        {
            "path": str(path.absolute()),
            "files": len({file for file, _ in known}),
            "findings": findings_of(one for _, one in known),
            "failures": [
                {"path": file, "error": one.error} for file, one in known if one.status != "ok"
            ],
            "error": error,
        }
    )
