"""Sending what is taken from a job's input, and telling that its caller lives.

A light thread does it, so that who takes the items never waits for the broker, and items do not
wait for later ones. It takes none itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, NamedTuple

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from hive.broker.link.client import client_of
from hive.broker.link.outage import passes, until_back
from hive.broker.link.scripts import Script
from hive.broker.link.silence import SILENCE
from hive.errors import BrokerUnreachableError, HiveError
from hive.jobs.input.blocks import BLOCK_BYTES, Block, BlockBuilder, growing_sizes
from hive.jobs.input.launch import launch, send_finish
from hive.jobs.input.window import (
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    WINDOW_BYTES,
    caller_ms,
    patience,
    until_room,
    window,
)
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.outcomes import error_text
from hive.jobs.state.plan import Plan
from hive.logs import get_logger

log = get_logger(__name__)

_FLUSH = 0.02
"""Seconds for which an item may wait for others to be sent with."""
_LATELY = 1.0
_SAY_AGAIN = 10.0
_NO_MEMORY = 60.0
"""Seconds for which a broker without memory is waited for, before the job ends with what was sent.
"""


class _Parcel(NamedTuple):
    """What is sent next: items, or the word that there are no more, or both."""

    block: Block | None
    last: bool
    error: str


class Sender:
    """Takes items in, and sends them in blocks until there are no more or the job is stopped."""

    def __init__(self, app: Celery, job_id: str, plan: Plan) -> None:
        self._app = app
        # A silent connection must be given up long before the caller's sign of life has lapsed.
        self._client = client_of(app).with_timeout(SILENCE)
        self._job_id = job_id
        self._plan = plan
        self._caller_ms = caller_ms(self._client.settings)
        self._patience = patience(self._client.settings)
        self._say_at = 0.0
        # Reentrant, since an iteration may be closed by a garbage collection, at any point.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # What follows is the lock's.
        self._sizes = growing_sizes(plan.slots, plan.chunk)
        self._size = next(self._sizes)
        self._block = BlockBuilder()
        self._enough = 0
        self._since = 0.0
        self._ready = deque[Block]()
        self._ready_bytes = 0
        self._window = window(plan.slots * plan.concurrency, 0, 0, plan.chunk)
        self._wants_room = False
        self.longest_pause = LONGEST_PAUSE
        self._ended = self._stopped = False
        self._error = ""
        self._asked_at = time.monotonic()
        self.askers = 0
        self.taken = 0
        # What follows is the thread's.
        self._pushed = self._done = self._bytes = 0
        self._launched = False
        self._told_at = time.monotonic()
        self._thread = threading.Thread(
            target=self._send, name=f"hive-sender-{job_id[:8]}", daemon=True
        )

    def start(self) -> None:
        """Begin to send. An endless input must not keep its program from ending."""
        self._thread.start()

    # -- for who takes the items

    @property
    def over(self) -> bool:
        """Whether no more items are wanted."""
        return self._stopped or self._ended

    def add(self, item: Any) -> bool:
        """Take an item in. Returns: whether there is room for another.

        Raises: InvalidInputError when JSON cannot hold it.
        """
        with self._lock:
            self._block.add(item, self.taken)
            self.taken += 1
            if self._block.n == 1:
                self._since = time.monotonic()
                self._enough = self._whole_block()
            if self._block.n < self._enough and self._block.bytes < BLOCK_BYTES:
                return True
            self._close_block()
            self._changed.notify_all()
            return self._room()

    def has_room(self) -> bool:
        """Whether another item may be taken; if not, the broker is asked how far the job is."""
        with self._lock:
            if self._room():
                return True
            longest = self.longest_pause if self._done else SHORTEST_PAUSE
            if not self._wants_room and time.monotonic() - self._told_at >= longest:
                self._wants_room = True
                self._changed.notify_all()
            return False

    def seen(self, outcomes: int) -> None:
        """So many items have their outcomes, as their reader knows before the broker is asked."""
        with self._lock:
            self._done = max(outcomes, self._done)

    def wait_for_room(self, longest: float) -> None:
        """Wait at most so many seconds until another item may be taken, or none is wanted."""
        with self._lock:
            self._changed.wait_for(lambda: self.over or self._room(), longest)

    def end(self, error: str = "") -> None:
        """There are no more items. error: why not, where the input was not at its end."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()

    def broken(self, fault: BaseException) -> None:
        """There are no more items, since taking them raised this."""
        how = "ended with an error" if isinstance(fault, Exception) else "was interrupted"
        self.end(f"The input {how} after {self.taken} items: {error_text(fault)}")

    def unfit(self, fault: HiveError) -> None:
        """There are no more items, since one could not be taken in."""
        self.end(f"The input ended early. {fault.message}")

    def wait(self) -> None:
        """Wait until all is sent, as long as a task's sender waits for the broker."""
        self._thread.join(self._client.settings.hive_publish_timeout)

    def stop(self) -> None:
        """The job has ended: nothing more has to be sent."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()

    # -- for who asks for the outcomes

    def asked(self) -> None:
        """Somebody begins to ask."""
        with self._lock:
            self.askers += 1

    def left(self) -> None:
        """That one asks no more."""
        with self._lock:
            self.askers -= 1
            self._asked_at = time.monotonic()

    def glanced(self) -> None:
        """Somebody asked, and did not stay."""
        with self._lock:
            self._asked_at = time.monotonic()

    @property
    def asked_lately(self) -> bool:
        """Whether somebody asks, or did a moment ago."""
        return self.askers > 0 or time.monotonic() - self._asked_at < _LATELY

    # -- holding the lock

    def _whole_block(self) -> int:
        return min(self._size, max(1, self._plan.chunk, self._window // 4))

    def _room(self) -> bool:
        """Whether there is room for a block, and for what is missing of one always: a full window
        is not to be sent in crumbs.
        """
        if self.over:
            return False
        if self._block.n:
            return True
        fits = self._bytes + self._ready_bytes + BLOCK_BYTES <= WINDOW_BYTES
        return fits and self.taken + self._whole_block() - self._done <= self._window

    def _close_block(self) -> None:
        block = self._block.take()
        self._ready.append(block)
        self._ready_bytes += len(block.text)
        self._size = next(self._sizes)

    def _flush_due(self, now: float) -> bool:
        unsent = self._block.n or (self._pushed and not self._launched)
        # Where the pullers have much to do yet, a block may rather become a whole one.
        hungry = self.taken - self._done <= self._window / 2
        longest = _FLUSH if hungry else 5 * _FLUSH
        return bool(unsent) and (self._ended or now - self._since >= longest)

    def _next(self) -> _Parcel | None:
        """What is to be sent now."""
        if self._block.n and not self._ready and self._flush_due(time.monotonic()):
            self._close_block()
        block = self._ready.popleft() if self._ready else None
        if block is not None:
            self._ready_bytes -= len(block.text)
        last = self._ended and not self._ready and not self._block.n
        return _Parcel(block, last, self._error if last else "") if block or last else None

    def _nobody_asks(self) -> bool:
        unasked = time.monotonic() - self._asked_at
        if self.askers or self._ended or unasked < self._patience:
            return False
        self._ended = True
        self._error = (
            f"Nobody asked for the job's outcomes for {unasked:.0f} s, so that its input was read "
            f"no further: it ended with the {self.taken} items that were sent. An input that is to "
            'be read while nobody asks needs feed="thread".'
        )
        return True

    def _pause(self) -> float:
        """Seconds until something may be due."""
        waiting = self.askers or self._block.n or (self._pushed and not self._launched)
        return _FLUSH if waiting else min(self._caller_ms / 4000, self._patience / 10)

    # -- the thread

    def _send(self) -> None:
        try:
            while not self._stopped and self._step():
                pass
            if not self._launched:
                # It was stopped before there were pullers, behind which the end would come.
                send_finish(self._app, self._job_id, self._plan)
        except (redis.exceptions.RedisError, OperationalError, HiveError) as fault:
            self._give_up(fault)
        finally:
            self.stop()
            self._client.close()

    def _step(self) -> bool:
        """Do what is due, or wait for it. Returns: whether there will be more to do."""
        with self._lock:
            parcel = self._next()
            flush = self._flush_due(time.monotonic())
            touch = self._wants_room or time.monotonic() - self._told_at > self._caller_ms / 4000
            if parcel is None and not flush and not touch and not self._nobody_asks():
                self._changed.wait(self._pause())
                return True
        if parcel is not None:
            self._push(parcel)
        elif touch:
            self._note(self._run(steps.TOUCH, 1, self._caller_ms))
        last = parcel is not None and parcel.last
        if last or self._pushed >= 2 * self._plan.slots or (flush and self._pushed):
            self._launch(complete=last)
        return not last

    def _push(self, parcel: _Parcel) -> None:
        self._note(
            self._run(
                steps.END if parcel.block is None else steps.PUSH,
                "cut" if parcel.error else int(parcel.last),
                parcel.error,
                self._caller_ms,
                self._pushed,
                *(parcel.block or ()),
            )
        )
        if not self._stopped and parcel.block is not None:
            self._pushed += parcel.block.n

    def _launch(self, *, complete: bool) -> None:
        if self._launched or self._stopped:
            return

        def step() -> None:
            launch(self._app, self._job_id, self._plan, self._pushed, complete=complete)

        def away(error: Exception) -> bool:
            return passes(error) or isinstance(error, BrokerUnreachableError)

        until_back(step, longest=float("inf"), waits=self._waits, away=away)
        self._launched = True

    def _note(self, reply: list[Any]) -> None:
        """Take over what the broker says about the job."""
        self._told_at = time.monotonic()
        with self._lock:
            stopped, done, micros, self._bytes = reply
            self._done = max(done, self._done)
            self._stopped = self._stopped or bool(stopped)
            at_once = self._plan.slots * self._plan.concurrency
            self._window = window(at_once, done, micros, self._plan.chunk)
            self.longest_pause = until_room(self._window, at_once, done, micros)
            self._wants_room = False
            self._changed.notify_all()

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
        self.stop()
        why = fault.message if isinstance(fault, HiveError) else error_text(fault)
        said = f"The items could not be sent: {why}"
        try:
            if self._launched:
                self._run(steps.END, "cut", said, self._caller_ms, self._pushed)
            else:
                self._run(steps.STOP, "cancelled", said, 1, 1)
                conclude(self._client, self._job_id, None, said)
        except redis.exceptions.RedisError as error:
            log.warning("feeder_could_not_say_so", job_id=self._job_id, error=str(error))
