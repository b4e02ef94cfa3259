"""Whether a message that was taken starts now, or waits in the broker.

Celery's worker would keep in its memory what is over its task's rate limit, and what is not due.
There it would hold a slot of the node that other tasks could use, and look like a run that hangs.
So it leaves the node at once, and no death is counted. The node comes for it when it is its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis
from celery.utils.time import maybe_iso8601, maybe_make_aware
from celery.worker import state
from celery.worker.strategy import default

from hive.broker.channel.incarnation import Incarnation, Wait, current
from hive.broker.link.client import SPACE
from hive.logs import get_logger
from hive.spore.reading import require_task

log = get_logger(__name__)

CELERYS = "celery.worker.strategy:default"
NAME = "hive.spore.strategy:start_or_wait"

SHORT = 0.005
"""Seconds that Celery's worker may hold a message for its rate limit: to move it takes as long."""

UNASKED = 1.0
"""Seconds between two questions whether something waits of which this node does not know."""

AGAIN = 2.0
"""Seconds until the next is called when the one before has not come (it was revoked, the broker was
away, all slots are taken), and until a node that drains asks itself whether it still does.
"""

MANY = 1000
"""How many are called at once where there is no rate limit any more."""


def start_or_wait(task: Any, app: Any, consumer: Any) -> Callable[..., None]:
    """Celery's strategy for a task, named to it by the task attribute `Strategy`."""
    start = default(task, app, consumer)
    turns: Turns = consumer.turns

    def on_message(message: Any, payload: Any, *callbacks: Any) -> None:
        if _is_one_too_many(message.delivery_tag):
            return
        told = message.headers if payload is None else payload
        require_task(message, told)
        wait = turns.wait_of(task.name, message.delivery_tag, told)
        if wait is None:
            start(message, payload, *callbacks)
            turns.started(task.name)
        else:
            turns.postpone(message.delivery_tag, wait)

    return on_message


def _is_one_too_many(tag: str) -> bool:
    """Whether the pool has shrunk while the message was under way; it has gone home then.

    Here it would wait for a process, in place of a node that has one.
    """
    incarnation = current()
    if incarnation is None or incarnation.held_count <= incarnation.slots:
        return False
    if not incarnation.owns(tag):
        return False
    incarnation.give_back([tag], deaths=0, reason="its node has no process for it")
    return True


class Turns:
    """Whose turn it is at this node, by the rate limits of its tasks.

    consumer: Celery's. Its token buckets, one for each task with a rate limit, say when. Everything
        here runs in the worker's event loop.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._postponed: dict[str, Wait] = {}
        self._waiting: set[str] = set()  # of these tasks something waits in the broker
        self._asked: dict[str, float] = {}
        self._next: dict[str, tuple[float, Any]] = {}  # when to ask again, and the timer's entry

    # -- of one message

    def wait_of(self, name: str, tag: str, told: Any) -> Wait | None:
        """What a message has to wait for; None when it can start, or is Celery's to drop."""
        incarnation = current()
        if incarnation is None or not incarnation.owns(tag):
            return None  # it is of a queue that is kombu's own
        now, expires = time.time(), _moment(told.get("expires"))
        if told.get("id") in state.revoked or (expires is not None and expires <= now):
            return None
        end = expires or float("inf")
        eta = _moment(told.get("eta"))
        if eta is not None and eta > now:
            return Wait("", _ms(min(eta, end) - now))
        if self._tokens_in(name) <= SHORT:
            return None
        return Wait(name, 0 if expires is None else _ms(expires - now))

    def postpone(self, tag: str, wait: Wait) -> None:
        """Let a message wait in the broker, with all that were taken together with it."""
        if not self._postponed:
            self._consumer.call_soon(self._send)
        self._postponed[tag] = wait
        if wait.task:
            self._waiting.add(wait.task)
            self._ask_in(wait.task, self._tokens_in(wait.task))

    def _send(self) -> None:
        postponed, self._postponed = self._postponed, {}
        incarnation = current()
        if postponed and incarnation is not None:
            incarnation.postpone(postponed)

    def started(self, name: str) -> None:
        """Celery has started a message, or dropped it: the next may have its turn."""
        if self._bucket(name) is None:
            return
        wait = self._tokens_in(name)
        if name not in self._waiting:
            wait = max(wait, self._asked.get(name, 0.0) + UNASKED - time.monotonic())
        self._ask_in(name, wait)

    # -- of those that wait

    def begin(self) -> None:
        """Go on with a new connection: the loop of the one before may have forgotten its calls."""
        self._send()
        for _, entry in self._next.values():
            self._consumer.timer.cancel(entry)
        self._next.clear()
        self.look_again()

    def look_again(self) -> None:
        """Ask at once for all that may wait: a rate limit, or which queues are served, changed."""
        for name, bucket in self._consumer.task_buckets.items():
            if bucket is not None or name in self._asked or name in self._waiting:
                self._ask_in(name, 0.0)

    def _ask_in(self, name: str, seconds: float) -> None:
        """Ask in so many seconds; sooner, where that was intended already."""
        at = time.monotonic() + max(0.0, seconds)
        intended, entry = self._next.get(name, (None, None))
        if intended is not None:
            if intended <= at:
                return
            self._consumer.timer.cancel(entry)
        entry = self._consumer.timer.call_after(max(0.0, seconds), self._ask, (name,))
        self._next[name] = (at, entry)

    def _ask(self, name: str) -> None:
        self._next.pop(name, None)
        incarnation = current()
        if incarnation is None or incarnation.stopping:
            return
        here = incarnation.attached and not incarnation.draining
        wait = self._tokens_in(name) if here else AGAIN
        if wait > SHORT:
            self._ask_in(name, wait)
            return
        most = MANY if self._bucket(name) is None else 1
        try:
            called, left = incarnation.call_up(name, most, self._queues(incarnation))
        except redis.exceptions.RedisError as error:
            log.warning("waiting_not_called", task=name, error=str(error))
            self._ask_in(name, AGAIN)
            return
        self._asked[name] = time.monotonic()
        if called or left:
            self._waiting.add(name)
            self._ask_in(name, AGAIN if most == 1 else 0.0)
        else:
            self._waiting.discard(name)

    def _queues(self, incarnation: Incarnation) -> list[str]:
        return [
            f"{SPACE}pin:{incarnation.node_id}",
            *incarnation.requirement_queues,
            *self._consumer.app.amqp.queues.consume_from,
        ]

    def _bucket(self, name: str) -> Any:
        return None if self._consumer.disable_rate_limits else self._consumer.task_buckets[name]

    def _tokens_in(self, name: str) -> float:
        """Seconds until the task's rate limit has a token that nobody waits for."""
        bucket = self._bucket(name)
        if bucket is None:
            return 0.0
        return float(bucket.expected_time(1 + len(bucket.contents)))


def _moment(told: Any) -> float | None:
    """A time in a message, in unix seconds; None for none, and for what Celery will reject."""
    try:
        moment = maybe_iso8601(told)
        return None if moment is None else maybe_make_aware(moment).timestamp()
    except (AttributeError, OverflowError, TypeError, ValueError):
        return None


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
