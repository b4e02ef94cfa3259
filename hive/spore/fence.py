"""The fence before a run: a task that lay in a node while that node was taken for dead does not begin there; another node has it.

Only the process that is to run it can tell. After a freeze it may go on before the worker has learned anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from celery.exceptions import Ignore

from hive.broker.client import client_of
from hive.broker.incarnation import boottime
from hive.broker.scripts import Script
from hive.logs import get_logger

log = get_logger(__name__)

TAKEN_AWAY = Script("hive.broker", "taken_away", include=("lib",))
STALE_BEATS = 2
"""Heartbeat intervals after which a delivery's stamp no longer vouches for its node; with three it is dead."""


def fenced(before_start: Callable[..., Any]) -> Callable[..., Any]:
    """A task's hook `before_start` that first makes sure that the task is still this node's to run.

    It asks the broker only when the node's last confirmed heartbeat is old, so that an ordinary task pays nothing.
    """
    if getattr(before_start, "hive_fence", False):
        return before_start

    def hook(task: Any, task_id: str, args: Any, kwargs: Any) -> None:
        hive = getattr(task.request, "hive", None) or {}
        if "inc" in hive and _is_taken_away(task.app, hive):
            log.warning("fenced_run_dropped", task_id=task_id, incarnation=hive["inc"])
            raise Ignore("Another node has it: this one was taken for dead.")
        before_start(task, task_id, args, kwargs)

    hook.hive_fence = True  # type: ignore[attr-defined]
    return hook


def _is_taken_away(app: Any, hive: dict[str, Any]) -> bool:
    client = client_of(app)
    if boottime() - hive["at"] <= STALE_BEATS * client.settings.hive_heartbeat_interval:
        return False
    try:
        return bool(client.run(TAKEN_AWAY, (), (client.prefix, hive["node"], hive["inc"], hive["id"])))
    except redis.exceptions.RedisError as error:
        # Nobody else can have it while the broker is away, but for a cut between this node and it.
        log.warning("fence_not_asked", incarnation=hive["inc"], error=str(error))
        return False
