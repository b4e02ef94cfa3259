"""The fence: a run whose message was given to another node leaves no trace.

A node that froze may be taken for dead, and its work given to others. When it goes on, the process
that runs a task may do so before the worker has learned anything: so that process itself has to
ask.
"""

from __future__ import annotations

from typing import Any

import redis

from hive.broker.channel.header import Header
from hive.broker.channel.incarnation import boottime
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import client_of
from hive.broker.link.scripts import Script
from hive.logs import get_logger

log = get_logger(__name__)

TAKEN_AWAY = Script("hive.broker.channel", "taken_away", include=(LIBRARY,))
STALE_BEATS = 2
"""Heartbeats after which a delivery's stamp vouches for its node no more: HIVE_DEAD_AFTER, when
others get its work, is as long at least.
"""


def is_taken_away(app: Any, request: Any) -> bool:
    """Whether the message of a task's request is somebody else's to run now.

    The broker is asked only when its last word is old: the node's last heartbeat before the
    delivery, or the answer to this question.
    """
    client = client_of(app)
    header = Header.of_request(request)
    delivery = header.delivery if header is not None else None
    if header is None or delivery is None:
        return False
    stale = STALE_BEATS * client.settings.hive_heartbeat_interval
    asked_at = boottime()
    if asked_at - header.fresh_until <= stale:
        return False
    try:
        taken_away = bool(client.run(TAKEN_AWAY, (), (client.prefix, *delivery)))
    except redis.exceptions.RedisError as error:
        # While the broker is away nobody else can get it, unless only this node is cut off.
        log.warning("fence_not_asked", incarnation=delivery.incarnation, error=str(error))
        return False
    if not taken_away:
        header.note_certain(asked_at)
    return taken_away
