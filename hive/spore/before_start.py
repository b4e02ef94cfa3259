"""The fence before a run, and what is done before a run that repeats one that died.

A task that lay in a node while that was taken for dead does not begin there: another has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from celery.exceptions import Ignore

from hive.broker import in_hand
from hive.broker.channel.fence import is_taken_away
from hive.broker.channel.header import Header
from hive.broker.link.client import client_of
from hive.foreman.watch.rooms import hooks_of
from hive.logs import get_logger

log = get_logger(__name__)


def fenced(before_start: Callable[..., Any]) -> Callable[..., Any]:
    """A task's hook `before_start` that first makes sure that the task is still this node's to run.

    For an ordinary task it asks nobody (see is_taken_away). A message whose earlier run died is
    told to the rooms: where only a process of a node died, no watchdog has done that.
    """
    if getattr(before_start, "hive_fence", False):
        return before_start

    def hook(task: Any, task_id: str, args: Any, kwargs: Any) -> None:
        if is_taken_away(task.app, task.request):
            delivery = Header.delivery_of(task.request)
            held_by = delivery.incarnation if delivery is not None else ""
            log.warning("fenced_run_dropped", task_id=task_id, incarnation=held_by)
            raise Ignore("Another node has it: this one was taken for dead.")
        in_hand.begins(task.request)
        _tell_of_deaths(task)
        before_start(task, task_id, args, kwargs)

    hook.hive_fence = True  # type: ignore[attr-defined]
    hook.hive_covers = before_start  # type: ignore[attr-defined]
    return hook


def _tell_of_deaths(task: Any) -> None:
    header = Header.of_task(task)
    if header is None or not header.deaths:
        return
    client = client_of(task.app)
    for hook in hooks_of(task.app):
        try:
            hook(client, [header.publish_id])
        except redis.exceptions.RedisError as error:
            # Then it comes back when its message is done.
            log.warning("death_not_told", task_id=task.request.id, error=str(error))
