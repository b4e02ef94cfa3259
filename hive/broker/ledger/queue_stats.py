"""How many tasks are where, all counted at one instant."""

from __future__ import annotations

from typing import Any

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script

_QUEUE_STATS = Script("hive.broker.ledger", "queue_stats", include=(LIBRARY,))


def queue_stats(client: BrokerClient) -> dict[str, Any]:
    """Count the tasks; the counts are those of `MessageBroker.get_queue_stats`.

    Raises redis-py's errors.
    """
    queues = (client.settings.hive_high_priority_queue, client.settings.hive_background_queue)
    reply = client.run(_QUEUE_STATS, (), (client.prefix, *queues))
    entries, delayed, dead, running, completed, failed, high, background = map(int, reply)
    # An entry is in a queue, placed at a node, delayed, reserved or dead. The message of a plain
    # Celery producer has no entry until a node takes it.
    queued = max(entries - delayed - dead - running, high + background)
    return {
        "high_priority_queue": high,
        "background_queue": background,
        "total_queued": queued,
        "tasks_pending": queued + delayed,
        "tasks_running": running,
        "tasks_completed": completed,
        "tasks_failed": failed,
        "tasks_dead": dead,
        "connected": True,
    }
