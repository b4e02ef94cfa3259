"""Celery's consumer, for which neither a lost connection nor a strange message is a disaster.

It drops nothing, notices a loss soon, and tries again without long pauses. What nobody can read
becomes a dead letter.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import redis
from celery import signals
from celery.exceptions import InvalidTaskError, NotRegistered
from celery.worker.consumer import Consumer as CeleryConsumer

from hive.broker.channel.entries import context, task_body
from hive.broker.channel.incarnation import current
from hive.broker.link.silence import ATTENTION
from hive.errors import NodeNameTakenError
from hive.logs import get_logger
from hive.spore.bootsteps import slots_of
from hive.spore.reading import require_task
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

    # -- what cannot be run

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            if isinstance(_task_name(message), str):
                handle(message)
            else:  # Celery looks tasks up by it
                self.on_invalid_task(None, message, InvalidTaskError("its task has no name"))

        return on_task_received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        if not self._bury(message, exc):
            super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        if not self._bury(message, InvalidTaskError("it names no task")):
            super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        if not self._bury(message, exc):
            super().on_invalid_task(body, message, exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Store the failure of a task that this node does not know.

        As Celery does, but so that its chord and its error callbacks learn of it, and that it is
        told later where this fails.
        """
        told = message.headers if "task" in message.headers else message.payload
        name = told["task"]
        try:
            require_task(message, told)
        except Exception as fault:  # noqa: BLE001 - each serializer raises errors of its own
            self.on_invalid_task(body, message, fault)
            return
        request = context(told, message.properties, task_body(message.payload))
        try:
            self.app.backend.mark_as_failure(told["id"], NotRegistered(name), request=request)
        except Exception as fault:  # noqa: BLE001 - a backend that is away raises anything
            log.warning("failure_not_stored", task_id=told["id"], task=name, error=str(fault))
            self._bury(message, InvalidTaskError(f"no task of the name {name} is known here"))
            return
        log.error("task_not_known", task_id=told["id"], task=name)
        message.reject()
        events = self.event_dispatcher  # type: ignore[attr-defined]
        if events:
            events.send("task-failed", uuid=told["id"], exception=f"NotRegistered({name!r})")
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=told["id"])

    def _bury(self, message: Any, fault: Exception) -> bool:
        """Make a message a dead letter. Returns: False where it is of a queue of kombu's own."""
        incarnation = current()
        tag = message.delivery_tag
        if incarnation is None or not incarnation.owns(tag):
            return False
        reason = incarnation.bury(tag, fault)
        log.error("message_not_readable", publish_id=tag, reason=reason)
        signals.task_rejected.send(sender=self, message=message, exc=fault)
        return True

    # -- the connection

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


def _task_name(message: Any) -> Any:
    """The task that a message names, in either of Celery's protocols; "" where Celery has to find
    out what it is.
    """
    if "task" in message.headers:
        return message.headers["task"]
    try:
        return message.payload.get("task", "")
    except Exception:  # noqa: BLE001 - each serializer raises errors of its own
        return ""
