"""`hive queue`: what waits, what runs, what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hive.cli.confirmation import confirmed, yes_option
from hive.cli.output import console, json_option, print_json, table

if TYPE_CHECKING:
    from rich.table import Table

MEANINGS = {
    "high_priority_queue": "waiting, high priority",
    "background_queue": "waiting, background",
    "total_queued": "waiting, all",
    "tasks_pending": "not started",
    "tasks_running": "running",
    "tasks_completed": "completed",
    "tasks_failed": "failed",
    "tasks_dead": "dead letters",
}


@click.group("queue", short_help="Look at the queues, purge them.")
def queue() -> None:
    """Look at the queues, and purge what waits in them.

    \b
    Example:
      hive queue stats
      hive queue purge background
    """


@queue.command("stats", short_help="Count the tasks by where they are.")
@json_option
def stats(as_json: bool) -> None:
    """Count the tasks that wait, run, are done, failed or dead.

    \b
    Example:
      hive queue stats
      hive queue stats --json | jq .total_queued
    """
    from hive.broker.ledger.queue_stats import queue_stats
    from hive.cli.looking import looking

    with looking() as client:
        found = queue_stats(client)
    if as_json:
        print_json(found)
    else:
        console().print(queue_table(found))


@queue.command("purge", short_help="Forget what waits in a queue.")
@click.argument("name", metavar="[QUEUE]", required=False)
@yes_option
@json_option
def purge(name: str | None, yes: bool, as_json: bool) -> int:
    """Forget every task that waits in QUEUE: high_priority, background, or any queue's name;
    without one, in those two. Asks first.

    What runs, is bound to a node, or is not due yet stays. Nobody tells those who wait for the
    results. Exit code 1 when the answer is no.

    \b
    Example:
      hive queue purge background
      hive queue purge venom:pin:gpu-1@rack7 --yes
    """
    from hive.cli.cluster import connected

    if not confirmed(
        f"Purge what waits in {name or 'high_priority and background'}? It cannot be brought back.",
        yes,
    ):
        return 1
    with connected() as cluster:
        settings = cluster.client.settings
        queues = {
            "high_priority": settings.hive_high_priority_queue,
            "background": settings.hive_background_queue,
        }
        wanted = [queues.get(name, name)] if name else list(queues.values())
        with cluster.app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            purged = {queue: int(channel.queue_purge(queue)) for queue in wanted}
    if as_json:
        print_json(purged)
    else:
        for queue, count in purged.items():
            click.echo(f"{count} task{'' if count == 1 else 's'} purged from {queue}")
    return 0


def queue_table(stats: dict[str, Any]) -> Table:
    """The table of `hive queue stats`."""
    return table(
        "tasks",
        ("where", "tasks"),
        [(meaning, stats[name]) for name, meaning in MEANINGS.items()],
        right=("tasks",),
    )
