"""Several items of a job at a time in one slot, for skills that only wait (`concurrency=`).

Each strand is a thread that leases and runs items as a puller does by itself. All their coroutines
run in the one event loop of the process, in its main thread: so they share what the skill keeps
there, and one that computes holds the others up.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from hive import coroutines
from hive.exits import ends_the_process
from hive.jobs.work.time_limit import TimeLimit

Pulls = Callable[["StrandLimit", list[Any] | None], bool]
"""Leases and runs items in a thread of its own, from the reply of a step on, or from its own first
step. It returns whether the puller has to be sent again.
"""


class StrandLimit(TimeLimit):
    """Limits the items of one strand: not by a signal, but by the loop that runs them."""

    def __init__(self, limit: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit)
        self.active = False
        self._loop = loop
        self._running: coroutines.Running | None = None

    def cancel(self) -> None:
        self._cancelled = True
        self._loop.call_soon_threadsafe(self._look)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of an item in the loop; the strand's thread waits for it."""
        outcome: Future[Any] = Future()
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._start, coroutine, context, outcome)
        return outcome.result()

    def interrupt(self, error: BaseException) -> None:
        """Raise an error in the item that is running, and let no other start; in the loop."""
        self.over = True
        if self._running is not None:
            self._running.throw(error)

    def _start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        outcome: Future[Any],
    ) -> None:
        running = self._running = coroutines.Running(self._loop, coroutine, context)
        timer = self._loop.call_later(self.due() - time.perf_counter(), self._look)

        def ended(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            self._running = None
            if task.cancelled():
                outcome.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

        running.task.add_done_callback(ended)

    def _look(self) -> None:
        now = time.perf_counter()
        self.over = self.over or self._cancelled or now >= self._deadline
        if self._running is not None and self.started is not None:
            reason = self._reason(now - self.started)
            if reason is not None:
                self._running.throw(reason)


class Strands:
    """The strands of one run of a puller. Whenever one finds items, another looks for more."""

    def __init__(self, most: int, item_limit: float, pulls: Pulls) -> None:
        """most: strands at a time. item_limit: seconds that one item may run."""
        self._most = most
        self._item_limit = item_limit
        self._pulls = pulls
        self._loop = coroutines.own_loop()
        self._over = asyncio.Event()
        self._lock = threading.Lock()
        self._limits: set[StrandLimit] = set()  # of the strands that look for items
        self.asking = threading.Lock()
        self.leases: dict[str, int] = {}
        """What the strands work on, by the id of their run; `asking` guards it."""
        self._error: BaseException | None = None
        self._again = False

    def run(self, reply: list[Any]) -> bool:
        """Work, from the reply of a step on. Returns: whether the puller has to be sent again.

        Raises: what a strand raised, and what has interrupted the puller.
        """
        coroutines.run(self._run(reply))
        if self._error is not None:
            raise self._error
        return self._again

    def found(self) -> None:
        """A strand has found items: let another one look, unless there are enough."""
        with self._lock:
            if len(self._limits) < self._most and self._error is None:
                self._begin(None)

    def is_last(self, limit: StrandLimit) -> bool:
        """Whether that strand is the only one, and has to wait for items; else it ends."""
        with self._lock:
            if len(self._limits) > 1:
                self._limits.discard(limit)
                return False
            return True

    def _begin(self, reply: list[Any] | None) -> None:
        limit = StrandLimit(self._item_limit, self._loop)
        self._limits.add(limit)
        threading.Thread(
            target=self._strand, args=(limit, reply), name="hive-strand", daemon=True
        ).start()

    def _strand(self, limit: StrandLimit, reply: list[Any] | None) -> None:
        coroutines.lend(limit.run)
        again = False
        try:
            again = self._pulls(limit, reply)
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            self._fail(error)
        with self._lock:
            self._again = self._again or again
            self._limits.discard(limit)
            if not self._limits:
                self._loop.call_soon_threadsafe(self._over.set)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            for limit in self._limits:
                limit.over = True

    async def _run(self, reply: list[Any]) -> None:
        self._begin(reply)
        while not self._over.is_set():
            try:
                await self._over.wait()
            # What is no Exception asyncio raises here, too; it is an item's own outcome.
            except (SystemExit, KeyboardInterrupt) as error:
                if ends_the_process(error):
                    await self._stop(error)
            except BaseException as error:  # noqa: BLE001 - `_stop` raises it again
                await self._stop(error)

    async def _stop(self, error: BaseException) -> None:
        """The puller itself has to stop, and its items with it."""
        for limit in tuple(self._limits):
            limit.interrupt(error)
        await self._over.wait()
        if not isinstance(error, SoftTimeLimitExceeded):
            raise error
