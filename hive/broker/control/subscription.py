"""Hearing the commands that are broadcast to the nodes, in asyncio, without being a node."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from celery import Celery
from kombu import Queue
from kombu.utils.json import dumps

from hive.broker.control.mailbox import HIVE_COMMAND, MailboxReader, mailbox_of, publish_command
from hive.broker.link.client import client_of
from hive.errors import BrokerUnreachableError
from hive.logs import get_logger

log = get_logger(__name__)

_BUFFERED = 1000
_START_SECONDS = 10.0
_POLL_SECONDS = 0.5
_LONGEST_PAUSE = 2.0


class BroadcastSubscription:
    """A reader of Hive's broadcast commands; `MessageBroker.subscribe_broadcast` makes one.

    A thread of its own reads the fanout. After a lost connection or a fail-over it subscribes
    again; as with any fanout, what was sent meanwhile is missed. Of more than 1,000 commands that
    nobody has listened to, the oldest is dropped.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._where = client_of(app).address
        self._channel = client_of(app).settings.hive_broadcast_channel
        self._id = f"subscriber-{uuid.uuid4().hex}"
        # The queue's name is only a mark in kombu: a fanout is sent to its subscribers and not
        # stored.
        queue = Queue(
            f"{self._id}.{mailbox_of(app).exchange.name}",
            exchange=mailbox_of(app).exchange,
            durable=False,
            auto_delete=True,
            expires=60.0,
        )
        self._reader = MailboxReader(app, queue, self._on_message)
        self._stop = threading.Event()
        self._heard = threading.Event()
        self._commands: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_BUFFERED)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Subscribe; when it returns, no later command is missed. Blocks.

        Raises: BrokerUnreachableError.
        """
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="hive-subscription", daemon=True)
        self._thread.start()
        end = time.monotonic() + _START_SECONDS
        while not self._heard.wait(0.05):
            # The server confirms the subscription on another connection than the one that sends, so
            # the sure sign is to hear a message to ourselves. It has a destination, so that the
            # nodes leave it alone.
            publish_command(self._app, HIVE_COMMAND, {}, destination=[self._id])
            if time.monotonic() > end:
                raise BrokerUnreachableError(
                    f"The broker at {self._where} does not pass on broadcasts; check its access "
                    "rules for channels."
                )

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """The commands as they come; ends when the subscription is closed.

        Each is {"command", "arguments", "destination", "ticket"}, and in the form of redis-py's
        messages: "type" is "message", "channel" where it was sent, "data" the four as JSON text.
        """
        while (command := await self._commands.get()) is not None:
            yield command

    async def close(self) -> None:
        """Stop listening; a `listen` that waits ends."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._keep(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _run(self) -> None:
        pause = 0.05
        while not self._stop.is_set():
            try:
                self._reader.drain(_POLL_SECONDS)
                pause = 0.05
            except Exception as error:  # noqa: BLE001 - whoever listens would wait for ever
                self._reader.drop()
                log.warning("subscription_lost", broker=self._where, error=str(error))
                self._stop.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        self._reader.close()

    def _on_message(self, body: Any, _message: Any) -> None:
        if not isinstance(body, dict) or body.get("method") != HIVE_COMMAND:
            return  # Celery's own control commands
        if body.get("destination") == [self._id]:
            self._heard.set()
            return
        given = body.get("arguments")
        if not isinstance(given, dict):
            return
        command = {"command": given.get("command"), "arguments": given.get("arguments") or {}}
        command |= {"destination": body.get("destination"), "ticket": body.get("ticket")}
        message = {"type": "message", "channel": self._channel, "data": dumps(command)}
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._keep, command | message)

    def _keep(self, command: dict[str, Any] | None) -> None:
        if self._commands.full():
            dropped = self._commands.get_nowait()
            log.warning("broadcast_dropped", command=dropped and dropped["command"])
        self._commands.put_nowait(command)
