"""Celery's remote-control mailbox, as Hive uses it.

Commands go out on one fanout; replies come into a queue of the caller's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from celery import Celery
from kombu import Connection, Consumer, Queue

from hive.broker.link.client import broker_errors, client_of
from hive.broker.link.coding import SERIALIZER
from hive.broker.link.silence import ATTENTION
from hive.logs import get_logger

log = get_logger(__name__)

HIVE_COMMAND = "hive"
"""The Celery control command that carries Hive's, in its arguments `command` and `arguments`."""

# A reply queue's binding ends an hour after its consumer last read. Declared again well before
# that, it survives idle times.
_DECLARE_EVERY = 600.0


def mailbox_of(app: Celery) -> Any:
    """Celery's mailbox: the fanout exchange of the commands and the exchange of their replies."""
    return app.control.mailbox  # type: ignore[attr-defined]


def clock_of(app: Celery) -> Any:
    """The application's Lamport clock, by which Celery orders the messages of its processes."""
    return app.clock  # type: ignore[attr-defined]


def publish_command(
    app: Celery,
    method: str,
    arguments: Mapping[str, Any],
    *,
    destination: Collection[str] | None = None,
    reply_to: str | None = None,
    ticket: str | None = None,
    expires: float = 60.0,
) -> None:
    """Send one control command on the application's fanout, over Celery's producer pool (safe
    between threads, and after a fork).

    method, arguments: a Celery control command and its keyword arguments.
    destination: nodes that shall obey it; None for all. reply_to: routing key of the reply queue.
        expires: seconds.

    Raises: BrokerUnreachableError or BrokerAuthError.
    """
    mailbox = mailbox_of(app)
    message: dict[str, Any] = {
        "method": method,
        "arguments": dict(arguments),
        "pattern": None,
        "matcher": None,
    }
    message["destination"] = list(destination) if destination is not None else None
    if reply_to is not None:
        message |= {
            "ticket": ticket,
            "reply_to": {"exchange": mailbox.reply_exchange.name, "routing_key": reply_to},
        }
    headers = {"clock": clock_of(app).forward(), "expires": time.time() + expires}
    with (
        broker_errors(client_of(app).address),
        app.amqp.producer_pool.acquire(block=True) as producer,
    ):
        # kombu silently drops a message to a fanout that this connection has not declared.
        producer.publish(
            message,
            exchange=mailbox.exchange.name,
            declare=[mailbox.exchange],
            headers=headers,
            serializer=SERIALIZER,
            retry=True,
            retry_policy={
                "max_retries": 2,
                "interval_start": 0.05,
                "interval_step": 0.1,
                "interval_max": 0.2,
            },
        )


class MailboxReader:
    """One connection with one consumer on one queue, for one thread at a time.

    It can be dropped and opened again, under the same queue name.
    """

    def __init__(self, app: Celery, queue: Queue, on_message: Callable[[Any, Any], None]) -> None:
        self._app = app
        self._queue = queue
        self._on_message = on_message
        self._connection: Connection | None = None
        self._channel: Any = None
        self._declared_at = 0.0
        self._looked_at = 0.0

    def open(self) -> Connection:
        """The connection, with the consumer at work. Raises: what kombu and redis-py raise."""
        if self._connection is None:
            self._connection = self._app.connection_for_read(
                transport_options={"health_check_interval": ATTENTION}
            )
            try:
                # One try: the caller knows how long it may go on trying.
                self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
                self._channel = self._connection.channel()
                Consumer(
                    self._channel,
                    [self._queue],
                    no_ack=True,
                    accept=["json"],
                    callbacks=[self._on_message],
                ).consume()
            except BaseException:
                self.drop()
                raise
            self._declared_at = self._looked_at = time.monotonic()
        if time.monotonic() - self._declared_at > _DECLARE_EVERY:
            self._queue(self._channel).declare()
            self._declared_at = time.monotonic()
        return self._connection

    def drain(self, seconds: float) -> None:
        """Hand over what has come; wait for the first of it at most so many seconds.

        Raises: what kombu and redis-py raise.
        """
        connection = self.open()
        try:
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            self._look_after(connection)

    def _look_after(self, connection: Connection) -> None:
        """Ask whether the server of a subscription is still there, which kombu does only in a
        worker. What does not answer twice is subscribed to anew.
        """
        if time.monotonic() - self._looked_at > ATTENTION:
            self._looked_at = time.monotonic()
            transport: Any = connection.transport
            transport.cycle.maybe_check_subclient_health()

    def drop(self) -> None:
        """Forget the connection, broken or not.

        The queue stays, so that the next connection finds what comes meanwhile.
        """
        connection, self._connection = self._connection, None
        channel, self._channel = self._channel, None
        if connection is None:
            return
        if channel is not None:
            # Else kombu would remove the queue, which a broker that is a replica now refuses.
            channel.auto_delete_queues.discard(self._queue.name)
            # Closing a channel waits for the blocking pop in flight, up to a second. Without its
            # socket there is nothing to wait for.
            polling = getattr(channel.client, "connection", None)
            if polling is not None:
                polling.disconnect()
        connection.release()

    def close(self) -> None:
        """Drop the connection and remove the queue with its binding."""
        if self._connection is not None:
            try:
                self._queue(self._channel).delete()
            except Exception as error:  # noqa: BLE001 - it goes by itself
                log.debug("reply_queue_left", queue=self._queue.name, error=str(error))
        self.drop()
