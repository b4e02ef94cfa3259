"""A job, followed to its end: outcomes as they come, how far it is, and why nothing moves."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import redis

from hive import json_text
from hive.cli.cluster import Attendance, Cluster
from hive.cli.output import (
    Bar,
    console,
    ends_json_by,
    exit_code,
    note,
    print_value,
    seconds,
    short,
    write_json,
)
from hive.errors import ClusterUnreachableError, JobFailedError
from hive.jobs.answer.job import Conclusion, Job, Progress
from hive.jobs.state.outcomes import Outcome

LOOK_EVERY = 0.5
NODES_EVERY = 2.0


class Show(Protocol):
    """Where a job's outcomes go."""

    def outcome(self, outcome: Outcome, bar: Bar) -> None: ...

    def end(self, job: Job, progress: Progress, value: Any, error: str | None) -> None: ...


class Lines:
    """A line an outcome, the reduced value, and a last line of counts on stderr.

    only_failures: leave out the outcomes that are well; for a job whose value is what counts.
    """

    def __init__(self, *, only_failures: bool = False) -> None:
        self._only_failures = only_failures
        self._width = console().width if sys.stdout.isatty() else None

    def outcome(self, outcome: Outcome, bar: Bar) -> None:
        if outcome.status != "ok" or not self._only_failures:
            bar.line(outcome_line(outcome, self._width))

    def end(self, job: Job, progress: Progress, value: Any, error: str | None) -> None:
        if value is not None:
            print_value(value)
        note(f"job {job.id}: {counts_of(progress)}")


class JsonDocument:
    """One JSON object whose `outcomes` are written as they come, so that none has to be kept.

    It is whole however the command ends.
    """

    def __init__(self, job_id: str) -> None:
        self._separator = "\n"
        self._ok = self._failed = 0
        ends_json_by(self._cut_off)
        write_json(f'{{"job_id": {json_text.write(job_id)},\n"outcomes": [', whole=False)

    def outcome(self, outcome: Outcome, bar: Bar) -> None:
        if outcome.status == "ok":
            self._ok += 1
        else:
            self._failed += 1
        written = json_text.write(dataclasses.asdict(outcome))
        write_json(self._separator + written, whole=False)
        self._separator = ",\n"

    def _cut_off(self, error: str) -> None:
        """The job may go on, but nothing more is heard of it here."""
        seen = {"completed": self._ok, "failed": self._failed}
        unknown = dict.fromkeys(field.name for field in dataclasses.fields(Progress))
        self._end({**unknown, **seen, "over": False, "value": None, "error": error})

    def end(self, job: Job, progress: Progress, value: Any, error: str | None) -> None:
        rest = {
            **dataclasses.asdict(progress),
            "over": progress.over,
            "value": value,
            "error": error,
        }
        self._end(rest)

    def _end(self, rest: dict[str, Any]) -> None:
        write_json("\n],\n" + json_text.write(rest).removeprefix("{"))


def counts_of(progress: Progress) -> str:
    """`19 of 20 items done, 1 failed`."""
    named = (
        ("failed", progress.failed),
        ("cancelled", progress.cancelled),
        ("running", progress.running),
        ("waiting", progress.pending),
    )
    total = "?" if progress.total is None else progress.total
    return ", ".join(
        [
            f"{progress.completed} of {total} items done",
            *(f"{count} {name}" for name, count in named if count),
        ]
    )


def code_of(progress: Progress) -> int:
    """The exit code of a job that has ended."""
    return exit_code(progress.completed, progress.failed + progress.cancelled)


def end_of(job: Job, show: Show, conclusion: Conclusion | None) -> int:
    """Show what a job came to, where that is known, and how far it is.

    Returns: the exit code of one that has ended. Raises: JobFailedError when the job as a whole
        went wrong.
    """
    value, error, dropped = None, None, 0
    if conclusion is not None:
        value, error, dropped = conclusion.value, conclusion.error, conclusion.dropped
    if dropped:
        note(f"{dropped} of the outcomes were dropped once the job's caller had read them")
    progress = job.progress()
    show.end(job, progress, value, error)
    if error:
        raise JobFailedError(f"Job {job.id}: {error}")
    return code_of(progress)


def follow_job(
    job: Job, cluster: Cluster, show: Show, *, label: str, cancels: bool = True, whole: bool = True
) -> int:
    """Show a job until it has ended.

    cancels: Ctrl-C, or a reader of the output that goes away, cancels the job.
    whole: wait also for what is made of all outcomes and for what the job has to say of itself.

    Returns: the exit code. Raises: KeyboardInterrupt, JobFailedError when the job as a whole went
        wrong.
    """
    try:
        with watched(job, cluster, Bar(label)) as bar:
            for outcome in job.remaining():
                show.outcome(outcome, bar)
        conclusion = job.wait() if whole else None
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        if cancels:
            job.cancel()
        if isinstance(stop, KeyboardInterrupt):
            show.end(job, job.progress(), None, "interrupted")
        raise
    return end_of(job, show, conclusion)


@contextmanager
def watched(job: Job, cluster: Cluster, bar: Bar) -> Iterator[Bar]:
    """Let the bar show how far the job is, and say so when there is no spore to do the work."""
    stop = threading.Event()
    with bar:
        thread = threading.Thread(
            target=_watch, args=(job, cluster, bar, stop), name="job-watch", daemon=True
        )
        thread.start()
        try:
            yield bar
        finally:
            stop.set()
            thread.join(LOOK_EVERY + 1)


def _watch(job: Job, cluster: Cluster, bar: Bar, stop: threading.Event) -> None:
    looked = 0.0
    attendance = Attendance(cluster, bar.note)
    pause = 0.05  # the first look comes soon: until then the bar has no total
    while not stop.wait(pause):
        pause = LOOK_EVERY
        try:
            progress = job.progress()
            done = progress.completed + progress.failed + progress.cancelled
            bar.progress(done, progress.total, progress.failed)
            if time.monotonic() - looked < NODES_EVERY:
                continue
            looked = time.monotonic()
            attendance.look()
        except (redis.exceptions.RedisError, ClusterUnreachableError):
            continue  # the reader of the outcomes says it, if it lasts


def outcome_line(outcome: Outcome, width: int | None = None) -> str:
    """One outcome as a line: index, status, node, time, attempts above one, value or error; cut to
    `width` for a terminal.
    """
    said = outcome.value if outcome.status == "ok" else outcome.error
    again = f"  attempt {outcome.attempts}" if outcome.attempts > 1 else ""
    where = f"{outcome.node or '-'}  {seconds(outcome.seconds)}{again}"
    head = f"{outcome.index:>6}  {outcome.status:<9}  {where}  "
    if width is None:
        return head + json_text.write(said)
    return head + short(said, max(20, width - len(head) - 1))
