"""Celery's consumer, for which a lost connection is no disaster.

It drops nothing, notices the loss soon, and tries again without long pauses.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import redis
from celery.worker.consumer import Consumer as CeleryConsumer

from hive.broker.channel.incarnation import current
from hive.broker.link.silence import ATTENTION
from hive.errors import NodeNameTakenError
from hive.logs import get_logger
from hive.spore.bootsteps import slots_of
from hive.spore.strategy import Turns

log = get_logger(__name__)

NAME = "hive.spore.consumer:Consumer"

_PAUSES = {"interval_start": 0.2, "interval_step": 0.2, "interval_max": 2.0}
"""Seconds between two tries to connect; Celery's grow to 32."""

_REFUSED_PAUSE = 1.0


class Consumer(CeleryConsumer):
    """Named in the setting `worker_consumer`."""

    turns: Turns | None = None
    """Whose turn it is by the rate limits; SporeConsumerStep makes it."""

    def reset_rate_limits(self) -> None:
        super().reset_rate_limits()
        if self.turns is not None:
            self.turns.look_again()

    def _update_prefetch_count(self, index: int = 0) -> Any:
        """Celery calls this when the pool has grown or shrunk.

        With the next heartbeat would be too late: what the node took meanwhile would wait here for
        a process, in place of a node that has one.
        """
        incarnation = current()
        if incarnation is not None:
            incarnation.slots = slots_of(self.controller)  # type: ignore[attr-defined]
        return super()._update_prefetch_count(index)  # type: ignore[misc]

    def add_task_queue(self, *args: Any, **options: Any) -> Any:
        answer = super().add_task_queue(*args, **options)
        if self.turns is not None:
            self.turns.look_again()
        return answer

    def start(self) -> None:
        try:
            super().start()
        except NodeNameTakenError as error:
            log.error("worker_cannot_start", reason=error.message)
            raise SystemExit(error.exit_code) from None

    def on_close(self) -> None:
        """Keep everything.

        Celery forgets here what it holds, since its delivery tags die with their channel. Hive's
        belong to the process.
        """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, redis.exceptions.ResponseError):
            incarnation = current()
            if incarnation is not None:
                incarnation.refused()
            # The broker refuses at once: without a pause, trying again would be a busy loop.
            time.sleep(_REFUSED_PAUSE)

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        return self.ensure_connected(
            self.app.connection_for_read(heartbeat=heartbeat, transport_options=self._attentive())
        )

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        return self.ensure_connected(
            self.app.connection_for_write(
                url=url, heartbeat=heartbeat, transport_options=self._attentive()
            )
        )

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, **_PAUSES)
        return super().ensure_connected(conn)

    def _attentive(self) -> dict[str, float]:
        """Transport options by which a silent connection is dropped in seconds, not in a minute."""
        own = self.app.conf.broker_transport_options
        waits = {
            name: min(ATTENTION, own.get(name) or ATTENTION)
            for name in ("socket_timeout", "socket_connect_timeout")
        }
        return {"health_check_interval": ATTENTION, **waits}
