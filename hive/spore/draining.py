"""The commands DRAIN and RESUME.

A draining node finishes what runs, gives back the rest and takes nothing, until it resumes or ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hive.broker.channel.incarnation import Incarnation, current
from hive.broker.control.draining import DRAIN, RESUME
from hive.errors import HiveError
from hive.logs import get_logger
from hive.spore.commands import command

log = get_logger(__name__)


@command(DRAIN, arguments=())
def drain(state: Any, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Take nothing more, and give back what has not started here.

    What is only bound to the node, and not taken by it, the heartbeat gives back.
    """
    incarnation = _incarnation()
    incarnation.draining = True
    waiting = [str(request.message.delivery_tag) for request in _take_waiting(state.consumer)]
    incarnation.give_back(waiting, deaths=0, reason="its node drains")
    log.info(
        "node_draining",
        node_id=incarnation.node_id,
        running=incarnation.held_count,
        given_back=len(waiting),
    )
    return {"ok": {"running": incarnation.held_count, "given_back": len(waiting)}}


@command(RESUME, arguments=())
def resume(_state: Any, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Take work again."""
    incarnation = _incarnation()
    incarnation.draining = False
    log.info("node_resumed", node_id=incarnation.node_id)
    return {"ok": {"running": incarnation.held_count}}


def _incarnation() -> Incarnation:
    incarnation = current()
    if incarnation is None:
        raise HiveError("This worker is still starting; say it again.")
    return incarnation


def _take_waiting(consumer: Any) -> Iterator[Any]:
    """The requests that Celery holds without having started them: their rate limit says "soon"."""
    for bucket in consumer.task_buckets.values():
        while bucket and bucket.contents:
            yield bucket.contents.popleft()[0]
