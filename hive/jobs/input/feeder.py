"""Feeding a job from an iterator.

One thread takes the items; another sees that those of a slow input do not wait for a full block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from hive.broker.link.client import client_of
from hive.broker.link.outage import passes, until_back
from hive.broker.link.scripts import Script
from hive.broker.link.silence import SILENCE
from hive.errors import BrokerUnreachableError, HiveError
from hive.jobs.input.blocks import BLOCK_BYTES, Block, BlockBuilder, growing_sizes
from hive.jobs.input.launch import launch
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.outcomes import error_text
from hive.jobs.state.plan import Plan
from hive.logs import get_logger
from hive.settings import Settings

log = get_logger(__name__)

_FLUSH = 0.02
_WINDOW_ITEMS = 20_000
_WINDOW_BYTES = 16 << 20
_WINDOW_SECONDS = 2.0
_SAY_AGAIN = 10.0
_NO_MEMORY = 60.0
"""Seconds for which a broker without memory is waited for, before the job ends with what was sent.
"""


def caller_ms(settings: Settings) -> int:
    """Milliseconds for which a sign of life of a job's caller lasts: ten heartbeats.

    It counts as gone after three times that (lua/lib.lua).
    """
    return int(settings.hive_heartbeat_interval * 10_000)


def window(slots: int, done: int, micros: int, chunk: int = 0) -> int:
    """How many items may be sent and not done: as many as two seconds' work.

    So a slow skill does not drain its input far ahead.

    done, micros: items that have their outcomes, and how long they ran in all. chunk: items of a
        lease, where that is fixed; a block of it has to fit.
    """
    least = 4 * slots * max(1, chunk)
    if not done:
        return least
    seconds = slots * _WINDOW_SECONDS / max(micros / done / 1e6, 1e-9)
    return int(max(least, min(_WINDOW_ITEMS, seconds)))


class Feeder:
    """Takes items from an iterator and sends them, until its process ends or the job is stopped."""

    def __init__(self, app: Celery, job_id: str, plan: Plan, items: Iterator[Any]) -> None:
        self._app = app
        # A silent connection must be given up long before the caller's sign of life has lapsed.
        self._client = client_of(app).with_timeout(SILENCE)
        self._job_id = job_id
        self._plan = plan
        self._items = items
        self._sizes = growing_sizes(plan.slots, plan.chunk)
        self._size = next(self._sizes)
        self._block = BlockBuilder()
        self._since = 0.0
        self._pushed = self._done = self._bytes = 0
        self._window = window(plan.slots, 0, 0, plan.chunk)
        self._sent = False
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._caller_ms = caller_ms(self._client.settings)
        self._say_at = 0.0
        self._flusher = self._thread("flusher", self._flush_in_time)

    def start(self) -> None:
        """Feed in two daemon threads: an endless input must not keep its program from ending."""
        for thread in (self._flusher, self._thread("feeder", self._feed)):
            thread.start()

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        name = f"hive-{name}-{self._job_id[:8]}"
        return threading.Thread(target=target, name=name, daemon=True)

    # -- the feeding thread

    def _feed(self) -> None:
        try:
            error = self._take_items()
            with self._lock:
                self._push(last=True, error=error)
        except (redis.exceptions.RedisError, OperationalError, HiveError) as fault:
            self._give_up(fault)
        finally:
            self._over.set()
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
            self._flusher.join()
            self._client.close()

    def _take_items(self) -> str:
        """Take items until the end; returns what was wrong with the input, or ""."""
        index = 0
        while not self._stopped.is_set():
            try:
                item = next(self._items)
            except StopIteration:
                return ""
            except Exception as fault:  # noqa: BLE001 the caller's generator may raise anything
                return f"The input ended with an error after {index} items: {error_text(fault)}"
            with self._lock:
                if self._stopped.is_set():
                    return ""
                try:
                    self._block.add(item, index)
                except HiveError as fault:
                    return f"The input ended early. {fault.message}"
                index += 1
                if self._block.n == 1:
                    self._since = time.monotonic()
                if (
                    self._block.n >= min(self._size, max(1, self._plan.chunk, self._window // 4))
                    or self._block.bytes >= BLOCK_BYTES
                ):
                    self._push()
        return ""

    # -- the flushing thread

    def _flush_in_time(self) -> None:
        alive = time.monotonic()
        while not self._over.wait(_FLUSH):
            now = time.monotonic()
            try:
                if now - alive > self._caller_ms / 4000:
                    alive = now
                    self._note(self._run(steps.TOUCH, 1, self._caller_ms))
                unsent = self._block.n or (self._pushed and not self._sent)
                if unsent and now - self._since >= _FLUSH:
                    self._flush()
            except (redis.exceptions.RedisError, OperationalError, HiveError) as fault:
                self._give_up(fault)
                return

    def _flush(self) -> None:
        """Send what a slow input has left unsent, and the pullers with it.

        Nothing is done while the feeding thread is at it.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._block.n:
                self._push()
            if self._pushed:
                self._send_pullers(complete=False)
        finally:
            self._lock.release()

    # -- both, holding the lock

    def _push(self, *, last: bool = False, error: str = "") -> None:
        """Send what is gathered, once the window has room for it."""
        block = self._block.take() if self._block.n else None
        if block is not None:
            self._size = next(self._sizes)
            self._wait_for_room(block)
        if self._stopped.is_set() or (block is None and not last):
            return
        self._note(
            self._run(
                steps.PUSH if block else steps.END,
                "cut" if error else int(last),
                error,
                self._caller_ms,
                self._pushed,
                *(block or ()),
            )
        )
        if self._stopped.is_set():
            return
        self._pushed += block.n if block else 0
        if last or self._pushed >= 2 * self._plan.slots:
            self._send_pullers(complete=last)

    def _wait_for_room(self, block: Block) -> None:
        pause = 0.002
        while self._pushed and not self._stopped.is_set():
            if self._pushed + block.n - self._done <= self._window and self._bytes < _WINDOW_BYTES:
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
            self._note(self._run(steps.TOUCH, 1, self._caller_ms))

    def _send_pullers(self, *, complete: bool) -> None:
        if self._sent or self._stopped.is_set():
            return

        def step() -> None:
            launch(self._app, self._job_id, self._plan, self._pushed, complete=complete)

        def away(error: Exception) -> bool:
            return passes(error) or isinstance(error, BrokerUnreachableError)

        until_back(step, longest=float("inf"), waits=self._waits, away=away)
        self._sent = True

    def _note(self, reply: list[Any]) -> None:
        """Take over what the broker says about the job."""
        stopped, self._done, micros, self._bytes = reply
        if stopped:
            self._stopped.set()
        self._window = window(self._plan.slots, self._done, micros, self._plan.chunk)

    def _run(self, script: Script, *args: Any) -> list[Any]:
        """Run a script, however long the broker is away.

        Raises: redis errors, OutOfMemoryError when the want of memory lasts for a minute.
        """

        def step() -> list[Any]:
            reply: list[Any] = steps.run(self._client, script, self._job_id, *args)
            return reply

        def there() -> list[Any]:
            return until_back(step, longest=float("inf"), waits=self._waits)

        def has_no_memory(error: Exception) -> bool:
            return isinstance(error, redis.exceptions.OutOfMemoryError)

        return until_back(there, longest=_NO_MEMORY, waits=self._waits, away=has_no_memory)

    def _waits(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._say_at:
            self._say_at = now + _SAY_AGAIN
            log.warning("feeder_waits_for_broker", job_id=self._job_id, error=str(error))

    def _give_up(self, fault: Exception) -> None:
        """The job cannot be fed on: it ends with what was sent.

        Where even that cannot be told to the broker, the caller's silence tells it.
        """
        log.error("feeder_failed", job_id=self._job_id, error=str(fault))
        self._stopped.set()
        why = fault.message if isinstance(fault, HiveError) else error_text(fault)
        said = f"The items could not be sent: {why}"
        try:
            if self._sent:
                self._run(steps.END, "cut", said, self._caller_ms, self._pushed)
            else:
                self._run(steps.STOP, "cancelled", said, 1, 1)
                conclude(self._client, self._job_id, None, said)
        except redis.exceptions.RedisError as error:
            log.warning("feeder_could_not_say_so", job_id=self._job_id, error=str(error))
