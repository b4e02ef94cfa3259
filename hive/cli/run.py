"""`hive run`: one task, and its result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hive.broker.link.priorities import queue_of
from hive.cli.items import Priority, Seconds, json_object, split_arguments
from hive.cli.output import app_option, json_option, note, print_json, print_value
from hive.errors import HiveError, InvalidInputError

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from hive.cli.cluster import Cluster

LOOK_EVERY = 2.0


class LateError(HiveError):
    """The task was not done in time."""


@click.command("run", short_help="Run a skill once and print its result.")
@click.argument("skill")
@click.argument("arguments", nargs=-1, metavar="[ARG | NAME=VALUE]…")
@click.option(
    "--priority",
    type=Priority(),
    default="background",
    show_default=True,
    help="high_priority, background, or 0..10.",
)
@click.option(
    "--requirements", metavar="JSON", help="What the node must have, such as '{\"gpu\": true}'."
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="Give up, and revoke the task, after so long.",
)
@app_option
@json_option
def run(
    *,
    skill: str,
    arguments: tuple[str, ...],
    priority: str | int,
    requirements: str | None,
    timeout: float | None,
    application: str | None,
    as_json: bool,
) -> int:
    """Run SKILL once, wait for it, and print what it returns. Ctrl-C revokes the task.

    An argument is a JSON value where it parses as JSON, else text; NAME=VALUE is a named one. With
    --json the task's whole record is printed: its status, node, attempt, times, result and error.

    \b
    Example:
      hive run summarize https://example.org/ sentences=2
      hive run scan_path /srv/app/settings.py --json
    """
    from hive.broker.ledger.stored import require_results
    from hive.cli.cluster import connected, wait_for_spore

    positional, named = split_arguments(arguments)
    demands = json_object(requirements, "--requirements")
    with connected(application) as cluster:
        require_results(cluster.app, "hive run")
        known = cluster.skill(skill)
        known.check(*positional, **named)
        left = wait_for_spore(cluster, timeout)
        queue, number = queue_of(priority, cluster.client.settings)
        wishes: dict[str, Any] = {
            "queue": queue,
            "priority": number,
            "requirements": demands or None,
        }
        options = {name: wish for name, wish in wishes.items() if wish is not None}
        try:
            # Its result is the task's record, also of a task that has none by itself.
            sent = known.task.apply_async(tuple(positional), named, ignore_result=False, **options)
        # Celery checks the arguments of a task without an input model by its signature.
        except TypeError as error:
            raise InvalidInputError(f"{known.name} cannot be called like that: {error}.") from None
        return _finish(sent, cluster, known.name, left, as_json=as_json)


def _finish(
    sent: AsyncResult[Any], cluster: Cluster, name: str, timeout: float | None, *, as_json: bool
) -> int:
    try:
        _wait(sent, cluster, timeout)
    except (KeyboardInterrupt, LateError):
        cluster.app.control.revoke(sent.id, terminate=True)
        note(f"task {sent.id} is revoked")
        raise
    # Behind the wait: whoever interrupts the command as soon as its task runs has it revoked.
    from hive.broker.ledger.records import TaskRecords

    record = TaskRecords(cluster.app).read(sent.id)
    if record is None:
        raise HiveError(f"The result of task {sent.id} is not kept, or has expired.")
    failed = record.status != "completed"
    if as_json:
        print_json(record.model_dump())
    elif not failed:
        print_value(record.result, indent=2)
    if failed:
        raise HiveError(f"{name} failed on {record.assigned_node}: {record.error}")
    return 0


def _wait(sent: AsyncResult[Any], cluster: Cluster, timeout: float | None) -> None:
    """Wait for the task's end.

    Raises: LateError after `timeout` seconds, BrokerUnreachableError when the broker stays away.
    """
    from celery.exceptions import TimeoutError as NotYet

    from hive.broker.ledger.stored import NO_FAILURE, asking
    from hive.broker.link.client import broker_errors
    from hive.cli.cluster import Attendance

    end = None if timeout is None else time.monotonic() + timeout
    attendance = Attendance(cluster)
    while True:
        left = LOOK_EVERY if end is None else min(LOOK_EVERY, end - time.monotonic())
        if left <= 0:
            raise LateError(f"Task {sent.id} was not done within {timeout:.1f} s.")
        try:
            with asking(cluster.app):
                sent.get(timeout=left, propagate=False)
        except NotYet:
            attendance.look()
        except NO_FAILURE:
            return  # it has failed, in a form of its own; the record tells
        # Celery raises this when it cannot reconnect to the results; the cause says why.
        except RuntimeError as gave_up:
            note(f"task {sent.id} goes on without this command")
            with broker_errors(cluster.client.address):
                raise gave_up.__cause__ or gave_up from None
        else:
            return
