"""Waiting for the results of tasks, also while the broker is away."""

# celery-types leaves most of Celery's Redis backend out.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from celery.backends.redis import ResultConsumer as CeleryResultConsumer

from hive.broker.channel.patience import endures
from hive.broker.link.client import broker_errors
from hive.broker.link.names import id_text
from hive.broker.link.outage import PAUSE, READERS_WAIT, Outage, comes_back, passes
from hive.broker.link.silence import SILENCE
from hive.errors import BrokerUnreachableError
from hive.logs import get_logger

log = get_logger(__name__)

LOOK_AFTER = 0.5
"""Seconds after a subscription at which what is stored is looked at."""


class ResultNotReadError(BrokerUnreachableError):
    """Whether the result is there cannot be told: the broker does not answer.

    A class of its own, so that it is no task's stored error: that may be of any other class.
    """


@contextmanager
def reading() -> Iterator[None]:
    """Within, a result is read. Raises: ResultNotReadError, BrokerAuthError."""
    try:
        with broker_errors():
            yield
    except BrokerUnreachableError as error:
        raise ResultNotReadError(error.message) from error.__cause__


class ResultConsumer(CeleryResultConsumer):  # type: ignore[misc]
    """Waits for results; mends a lost subscription, and looks at what is stored after each.

    Celery waits on a silent subscription for as long as the caller allows, although the result is
    long there. It looks before it subscribes anew, and so misses what comes in between. And
    redis-py may connect anew without telling it. While the broker is away, Celery tries for twenty
    seconds, whatever timeout the caller has given, and then wants its program to be restarted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pubsub: Any = None
        self._watched: Any = None
        self._asked_at = 0.0
        self._look_at: float | None = None
        self._lost = False
        self._outage = Outage(READERS_WAIT)

    def on_wait_for_pending(self, result: Any, **kwargs: Any) -> None:
        """Look whether the result is there already, before it is waited for."""
        if self._lost:
            self._outage.over()  # who waits from now on waits as long as the others did
            return
        with self.reconnect_on_error():
            super().on_wait_for_pending(result, **kwargs)

    def consume_from(self, task_id: str) -> None:
        with self._locked():
            if self._lost:
                key = self._get_key_for_task(task_id)
                self._pending_unsubscribe.discard(key)
                self.subscribed_to.add(key)
                return
        super().consume_from(task_id)

    def drain_events(self, timeout: float | None = None) -> None:
        with self._locked():
            there = not self._lost or self._connects()
            if (
                self._pubsub is not None
                and self._pubsub.subscribed
                and self._pubsub.connection is not None
            ):
                self._look_after(self._pubsub)
        if there:
            super().drain_events(timeout)
        else:
            time.sleep(PAUSE if timeout is None else min(PAUSE, timeout))

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Note an outage that shows within; what waits for results goes on trying."""
        try:
            yield
        except builtins.TimeoutError:
            raise  # nothing came in time, which is no outage
        except Exception as error:
            if not _is_away(error):
                raise
            with self._locked():
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """The subscription is lost.

        Raises: BrokerUnreachableError where the broker has been away for too long, and a caller
            waits; a running task waits on.
        """
        self._lost = True
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(Exception):
                pubsub.close()
        with broker_errors():
            if not (comes_back(error) or isinstance(error, ResultNotReadError)):
                raise error
            if not endures() and self._outage.came(error):
                log.warning("result_waits_for_broker", error=str(error), at_most=READERS_WAIT)

    def _connects(self) -> bool:
        """Subscribe again, and look at what is stored. Returns: whether the broker answers."""
        try:
            self._reconnect_pubsub()
        except Exception as error:
            if not _is_away(error):
                raise
            self._lose(error)
            return False
        self._lost = False
        self._outage.over()
        return True

    def stop(self) -> None:
        """Close the subscription and forget it; the next wait for a result makes another.

        Celery keeps it. A result that is freed later would then open it again, only to unsubscribe:
        twenty seconds of trying where the broker has ended.
        """
        with self._locked():
            super().stop()
            self._pubsub = None

    def _look_after(self, pubsub: Any) -> None:
        """Look at what is stored a moment after each connect.

        Once nothing was heard for a while, ask whether the server is there.
        """
        now = time.monotonic()
        connection = pubsub.connection
        if connection is not self._watched:
            self._watched = connection
            connection.register_connect_callback(self._connected)
            connection.health_check_interval, connection.next_health_check = SILENCE, now + SILENCE
            self._connected(connection)
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
            with self.reconnect_on_error():
                self._look()
        elif pubsub.health_check_response_counter:  # redis-py counts the answers that are missing
            if now - self._asked_at > SILENCE:
                self._lose(redis.exceptions.TimeoutError("The subscription is silent."))
        else:
            with self.reconnect_on_error():
                pubsub.check_health()
            self._asked_at = now

    def _connected(self, _connection: Any) -> None:
        """By the time of the next look the server will know of the subscriptions."""
        self._look_at = time.monotonic() + LOOK_AFTER

    def _look(self) -> None:
        if self.subscribed_to:
            for meta in filter(None, self.backend.client.mget(self.subscribed_to)):
                self.on_state_change(self._decode_result(meta), None)


def _is_away(error: Exception) -> bool:
    return passes(error) or isinstance(error, ResultNotReadError)


class PatientResult:
    """What an application's AsyncResult gains. Waiting for it also asks how its parents fared.

    Its id may be a UUID, whose text it is then, as where tasks are sent.
    """

    def __init__(self, id: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(id_text(id), *args, **kwargs)  # type: ignore[call-arg]

    def _maybe_reraise_parent_error(self) -> None:
        """Raise a parent's error. It is asked again once a second, so an outage is passed over."""
        with suppress(ResultNotReadError):
            super()._maybe_reraise_parent_error()  # type: ignore[misc]


def patient(result_class: type) -> type:
    """An application's AsyncResult, made patient."""
    if issubclass(result_class, PatientResult):
        return result_class
    return type(result_class.__name__, (PatientResult, result_class), {})
