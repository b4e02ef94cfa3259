"""Control commands to all nodes at once, with their replies, over Celery's remote-control mailbox.

Celery makes a reply queue for each call, and loses replies that way: the queue's name holds the id
of a mailbox that is copied for each call, while the blocking pop in flight still waits on the
previous name. Here a process has one reply queue and one consumer for its life. Calls are told
apart by their ticket, and a call is over as soon as all the nodes that it waits for have answered.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from kombu import Queue

from hive.broker.control.mailbox import MailboxReader, clock_of, mailbox_of, publish_command
from hive.broker.link.client import broker_errors, client_of
from hive.broker.link.outage import PAUSE, passes
from hive.errors import BrokerUnreachableError
from hive.logs import get_logger

log = get_logger(__name__)

_RECONNECT_PAUSE = 0.05


@dataclass(slots=True)
class _Call:
    waiting: set[str]
    replies: dict[str, Any] = field(default_factory=dict)


class BroadcastCaller:
    """Sends control commands and collects the replies; safe between threads, and after a fork.

    Of the threads that wait one reads for all of them. No thread runs while nobody calls.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._where = client_of(app).address
        self._begin()
        _callers.add(self)

    def _begin(self) -> None:
        """Set up the state of this process; after a fork the parent's connection and locks are left
        alone.
        """
        self._changed = threading.Condition()
        self._calls: dict[str, _Call] = {}
        self._reading = False
        self._key = uuid.uuid4().hex
        mailbox = mailbox_of(self._app)
        queue = Queue(
            f"{self._key}.{mailbox.reply_exchange.name}",
            exchange=mailbox.reply_exchange,
            routing_key=self._key,
            durable=False,
            auto_delete=True,
            expires=60.0,
        )
        self._reader = MailboxReader(self._app, queue, self._on_reply)

    def call(
        self,
        method: str,
        arguments: Mapping[str, Any],
        nodes: Collection[str],
        *,
        timeout: float,
        destination: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """Send a control command, and wait for the answers of all of `nodes`.

        method, arguments: a Celery control command and its keyword arguments.
        destination: nodes that shall obey it; None for all workers, also those not in `nodes`. What
            they answer in time is kept.

        Returns: the replies by node id; a node that did not answer in time is not in it.
        Raises: BrokerUnreachableError or BrokerAuthError.
        """
        end = time.monotonic() + timeout
        ticket = uuid.uuid4().hex
        call = _Call(set(nodes))
        with self._changed:
            self._calls[ticket] = call
        try:
            self._ready(end)
            self._send(method, arguments, destination, ticket, end)
            self._wait(call, end)
            with self._changed:
                return dict(call.replies)
        finally:
            with self._changed:
                del self._calls[ticket]

    def close(self) -> None:
        """Give the connection and the reply queue back; a later call opens them again."""
        with self._changed:
            # The reading thread leaves when its call is over, its timeout at the latest.
            while self._reading:
                self._changed.wait()
            self._reading = True
        try:
            self._reader.close()
        finally:
            self._leave()

    def _ready(self, end: float) -> None:
        """Declare and bind the reply queue, before anything is sent that could be answered."""
        if self._lead(end):
            try:
                while not self._attempt(self._reader.open, end):
                    pass
            finally:
                self._leave()

    def _send(
        self,
        method: str,
        arguments: Mapping[str, Any],
        destination: Collection[str] | None,
        ticket: str,
        end: float,
    ) -> None:
        """Publish the command, and try again while there is time."""
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                return publish_command(
                    self._app,
                    method,
                    arguments,
                    destination=destination,
                    reply_to=self._key,
                    ticket=ticket,
                    expires=left,
                )
            except BrokerUnreachableError as error:
                if left <= PAUSE:
                    raise
                log.warning("broadcast_waits_for_broker", broker=self._where, error=str(error))
                time.sleep(PAUSE)

    def _wait(self, call: _Call, end: float) -> None:
        while call.waiting and time.monotonic() < end:
            if not self._lead(end, call):
                continue
            try:
                while call.waiting and time.monotonic() < end:
                    self._attempt(
                        lambda: self._reader.drain(max(0.001, end - time.monotonic())), end
                    )
            finally:
                self._leave()

    def _lead(self, end: float, call: _Call | None = None) -> bool:
        """Become the reading thread.

        Returns: False when another thread's reading has completed `call`, or the time is over.
        """
        with self._changed:
            while self._reading:
                left = end - time.monotonic()
                if left <= 0 or (call is not None and not call.waiting):
                    return False
                self._changed.wait(left)
            self._reading = True
            return True

    def _leave(self) -> None:
        with self._changed:
            self._reading = False
            self._changed.notify_all()

    def _attempt(self, step: Callable[[], object], end: float) -> bool:
        """Run a step of the reader.

        False: the connection was lost and the next step begins a new one.

        Raises: BrokerUnreachableError when there is no time left for that, BrokerAuthError.
        """
        try:
            with broker_errors(self._where):
                step()
        except Exception as error:
            self._reader.drop()
            if not (passes(error) or isinstance(error, BrokerUnreachableError)):
                raise
            log.warning("broadcast_connection_lost", broker=self._where, error=str(error))
            if time.monotonic() + _RECONNECT_PAUSE >= end:
                raise BrokerUnreachableError(
                    f"The broker at {self._where} does not answer ({error})."
                ) from error
            time.sleep(_RECONNECT_PAUSE)
            return False
        return True

    def _on_reply(self, body: Any, message: Any) -> None:
        clock_of(self._app).adjust(message.headers.get("clock") or 0)
        with self._changed:
            call = self._calls.get(message.headers.get("ticket"))
            if call is None or not isinstance(body, dict):
                return  # an answer that came after its call had ended
            call.replies.update(body)
            call.waiting -= body.keys()
            if not call.waiting:
                self._changed.notify_all()


_callers: weakref.WeakSet[BroadcastCaller] = weakref.WeakSet()


def _after_fork() -> None:
    for caller in list(_callers):
        caller._begin()


os.register_at_fork(after_in_child=_after_fork)
