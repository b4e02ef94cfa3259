"""Taking items from an iterator, in the thread that asks for the job's outcomes.

What the iterator is bound to holds there: a transaction, a cursor, the thread's and the context's
own variables.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextvars import copy_context
from math import inf
from typing import Any

from hive.errors import HiveError
from hive.jobs.input.sender import Sender
from hive.jobs.input.window import SHORTEST_PAUSE
from hive.jobs.state.outcomes import error_text
from hive.logs import get_logger

log = get_logger(__name__)

_TURN = 0.02
"""Seconds after which a turn ends, so that outcomes are handed out; an item is not interrupted."""
_ANOTHER_READS = 0.05
_NOTHING = object()


class Feeder:
    """Reads a job's items: an errand of whoever asks for the outcomes. One thread at a time does.

    Once the input has ended or the job is stopped, a generator is closed, in the thread that reads.
    """

    def __init__(self, sender: Sender, items: Iterator[Any], job_id: str) -> None:
        self._sender = sender
        self._items = items
        self._job_id = job_id
        self._reading = threading.Lock()
        self._reader = threading.get_ident()
        self._pause = SHORTEST_PAUSE

    # -- as an errand

    def asked(self) -> None:
        """Somebody begins to ask."""
        self._sender.asked()

    def turn(self) -> float:
        """Take what there is room for, for a moment; seconds until there may be more room."""
        return self.read(_TURN)

    async def turn_async(self) -> float:
        """The same: what is read here never waits for the broker."""
        return self.read(_TURN)

    def left(self, *, over: bool) -> None:
        """That one asks no more."""
        self._sender.left()
        if over:
            self._sender.stop()
            self.read(0.0)

    # -- further occasions

    def seen(self, outcomes: int) -> None:
        """A reader has seen so many outcomes."""
        self._sender.seen(outcomes)

    def glance(self) -> None:
        """Somebody asks in passing: take items for a moment, unless another thread does it."""
        self._sender.glanced()
        if not self._sender.askers or self._reader == threading.get_ident():
            self.read(_TURN)

    def read(self, seconds: float) -> float:
        """Take what there is room for, for so many seconds.

        Returns: seconds until there may be room for more, 0 where there is, inf when no more are
            wanted. Raises: what a signal raises while the iterator works; the input ends there.
        """
        if not self._reading.acquire(blocking=False):
            return _ANOTHER_READS
        try:
            self._reader = threading.get_ident()
            return self._read(time.monotonic() + seconds)
        finally:
            self._reading.release()

    def read_at_once(self, seconds: float) -> None:
        """Take one window of items at most, for so many seconds at most.

        An input that ends within that is sent when this returns, as a list would be.
        """
        self._sender.start()
        if self.read(seconds) == inf:
            self._sender.wait()

    def read_in_thread(self) -> None:
        """Read it all in a daemon thread, in a copy of the caller's context."""
        self._sender.start()
        name = f"hive-feeder-{self._job_id[:8]}"
        context = copy_context()
        threading.Thread(target=context.run, args=(self._read_all,), name=name, daemon=True).start()

    # -- reading

    def _read_all(self) -> None:
        self.asked()
        while self.turn() < inf:
            self._sender.wait_for_room(self._pause)

    def _read(self, until: float) -> float:
        room = self._sender.has_room()
        if room:
            self._pause = SHORTEST_PAUSE
        while room:
            if time.monotonic() >= until:
                return 0.0
            room = self._take()
        if self._sender.over:
            self._close()
            return inf
        self._pause = min(2 * self._pause, self._sender.longest_pause)
        return self._pause

    def _take(self) -> bool:
        """Take an item. Returns: whether there is room for another."""
        item = _NOTHING
        try:
            item = next(self._items)
            return self._sender.add(item)
        except StopIteration:
            self._sender.end()
        except Exception as fault:  # noqa: BLE001 the caller's iterator may raise anything
            if item is not _NOTHING and isinstance(fault, HiveError):
                self._sender.unfit(fault)
            else:
                self._sender.broken(fault)
        except BaseException as stop:
            # An item may be lost by it, and a generator has ended.
            self._sender.broken(stop)
            raise
        return False

    def _close(self) -> None:
        items, self._items = self._items, iter(())
        if isinstance(items, Generator):
            try:
                items.close()
            except Exception as fault:  # noqa: BLE001 as above
                log.warning("input_not_closed", job_id=self._job_id, error=error_text(fault))
