"""`hive job`: a job seen again, from any process, also after the one that started it has ended."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from hive.cli.output import json_option
from hive.errors import OutcomesDroppedError

if TYPE_CHECKING:
    from hive.cli.follow import Show
    from hive.jobs.answer.job import Job


@click.command("job", short_help="Show, follow or cancel a job.")
@click.argument("job_id", metavar="ID")
@click.option(
    "--follow", is_flag=True, help="Stay until the job has ended; Ctrl-C leaves it running."
)
@click.option("--cancel", is_flag=True, help="Run nothing more of it.")
@json_option
def job(*, job_id: str, follow: bool, cancel: bool, as_json: bool) -> int:
    """Show how far the job ID is, and the outcomes that are there.

    Exit code, once the job has ended: 0 all done, 4 some items failed, 1 all did; 0 while it goes
        on.

    \b
    Example:
      hive job 5f1c2a9e --follow
      hive job 5f1c2a9e --json | jq .completed
      hive job 5f1c2a9e --cancel
    """
    from hive.cli.cluster import connected
    from hive.cli.follow import JsonDocument, Lines, follow_job
    from hive.jobs.answer.job import job as open_job

    if follow and cancel:
        raise click.UsageError("--follow and --cancel exclude each other.")
    with connected() as cluster:
        found = open_job(job_id, app=cluster.app)
        if cancel:
            found.cancel()
        show = JsonDocument(found.id) if as_json else Lines()
        return (
            follow_job(found, cluster, show, label=job_id, cancels=False)
            if follow
            else print_job(found, show)
        )


def print_job(found: Job, show: Show) -> int:
    """Show what is there of a job now. Returns: the exit code."""
    from hive.cli.follow import end_of
    from hive.cli.output import Bar

    result = found.result(timeout=0)
    # They may be dropped meanwhile, which is told at the end.
    with Bar(found.id) as bar, suppress(OutcomesDroppedError):
        for outcome in result.outcomes:
            show.outcome(outcome, bar)
    code = end_of(found, show, found.wait(timeout=0))
    return code if result.complete else 0
