"""Taking items from an async iterable, in the event loop of whoever asks for the outcomes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from contextvars import copy_context
from math import inf
from typing import Any

from hive.errors import HiveError, InvalidInputError
from hive.jobs.input.sender import Sender
from hive.jobs.input.window import SHORTEST_PAUSE

_TURN = 0.005
"""Seconds after which an input that never waits lets the loop have its turn."""


class AsyncFeeder:
    """Reads a job's items, as an errand of whoever asks for the outcomes in an event loop.

    One task reads them all, by one `async for`, while somebody asks: an input may be bound to its
    task as well as to its loop.
    """

    def __init__(self, sender: Sender, items: AsyncIterable[Any], job_id: str) -> None:
        self._sender = sender
        self._items = items
        self._job_id = job_id
        self._task: asyncio.Task[None] | None = None

    # -- as an errand

    def asked(self) -> None:
        """Somebody begins to ask."""
        self._sender.asked()

    def turn(self) -> float:
        """Nothing: who blocks a thread cannot read. Raises: InvalidInputError, rather than wait for
        ever.
        """
        if self._sender.over or self._is_read_elsewhere():
            return inf
        raise InvalidInputError(
            "The items of this job are an async iterable, which is read while an event loop waits "
            'for the job: use `async for` or `await`, or map it with feed="thread".'
        )

    async def turn_async(self) -> float:
        """See that the items are read in this loop, or in the one that began to."""
        self._begin()
        if self._task is not None and self._task.get_loop().is_closed():
            self._sender.end(
                f"The input was interrupted after {self._sender.taken} items: its event loop ended."
            )
        return inf

    def left(self, *, over: bool) -> None:
        """That one asks no more."""
        self._sender.left()
        if not over:
            return
        self._sender.stop()
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    # -- further occasions

    def seen(self, outcomes: int) -> None:
        """A reader has seen so many outcomes."""
        self._sender.seen(outcomes)

    def glance(self) -> None:
        """Somebody asks in passing."""
        self._sender.glanced()
        with suppress(RuntimeError):  # no loop runs in this thread
            self._begin()

    def read_at_once(self, seconds: float) -> None:
        """Begin to read, where a loop runs; this does not wait for it."""
        self._sender.start()
        self.glance()

    def read_in_thread(self) -> None:
        """Read it all in an event loop of a daemon thread, in a copy of the caller's context."""
        self._sender.start()
        self._sender.asked()
        name = f"hive-feeder-{self._job_id[:8]}"
        context = copy_context()
        threading.Thread(
            target=context.run, args=(asyncio.run, self._read()), name=name, daemon=True
        ).start()

    # -- reading

    def _begin(self) -> None:
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._read(), name=f"hive-feeder-{self._job_id[:8]}")

    def _is_read_elsewhere(self) -> bool:
        if self._task is None:
            return False
        loop = self._task.get_loop()
        try:
            own = asyncio.get_running_loop()
        except RuntimeError:
            own = None
        return loop.is_running() and loop is not own

    async def _read(self) -> None:
        try:
            await self._take_all()
        except Exception as fault:  # noqa: BLE001 the caller's iterable may raise anything
            self._sender.broken(fault)
        except BaseException as stop:
            self._sender.broken(stop)
            raise
        else:
            self._sender.end()

    async def _take_all(self) -> None:
        until = time.monotonic() + _TURN
        try:
            async for item in self._items:
                if self._add(item) and time.monotonic() < until:
                    continue
                await self._wait_for_room()
                if self._sender.over:
                    return
                until = time.monotonic() + _TURN
        finally:
            if isinstance(self._items, AsyncGenerator):
                await self._items.aclose()

    def _add(self, item: Any) -> bool:
        try:
            return self._sender.add(item)
        except HiveError as fault:
            self._sender.unfit(fault)
            return False

    async def _wait_for_room(self) -> None:
        """Wait until there is room and somebody asks, and let the loop have its turn."""
        pause = 0.0
        while not self._sender.over:
            await asyncio.sleep(pause)
            if self._sender.has_room() and self._sender.asked_lately:
                return
            pause = min(2 * pause or SHORTEST_PAUSE, self._sender.longest_pause)
