"""How task messages are sent: as Celery sends them, and through an outage.

An outage is waited for; when it lasts, it is told in Hive's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery._state import get_current_worker_task
from celery.app.amqp import AMQP
from kombu.exceptions import OperationalError
from redis.exceptions import ResponseError

from hive.broker.channel.fence import is_taken_away
from hive.broker.channel.header import NAME as HEADER
from hive.broker.channel.header import Header
from hive.broker.channel.patience import endures, pause
from hive.broker.channel.publishing import follows_up, outcome_unknown, sendable, vouched_for
from hive.broker.channel.time_limits import Limit, fitting
from hive.broker.link.client import client_of
from hive.broker.link.coding import checked_compression, checked_serializer
from hive.broker.link.outage import passes, said
from hive.errors import BrokerUnreachableError, HiveError, InvalidInputError
from hive.logs import get_logger

log = get_logger(__name__)

NAME = "hive.broker.channel.amqp:HiveAMQP"

REFUSED_PAUSE = 1.0


class HiveAMQP(AMQP):
    """Named in the application's `amqp_cls`.

    It marks the application's task messages by the header `hive`, and lets their time limits fit
    together. Only marked messages are Hive's: a process may have other applications, for whose
    messages the signal is sent too, and which need their eta.
    """

    def _create_task_sender(self) -> Callable[..., Any]:
        send: Callable[..., Any] = super()._create_task_sender()  # type: ignore[misc]
        # Looked up once, as Celery does.
        serializer, compression = self.app.conf.task_serializer, self.app.conf.task_compression

        def send_task_message(
            producer: Any,
            name: str,
            message: Any,
            headers: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> Any:
            if self._sends_for_nobody(name):
                return None
            if "content_type" in options:
                raise InvalidInputError("content_type cannot be chosen: tasks travel as JSON.")
            options["serializer"] = checked_serializer(options.get("serializer") or serializer)
            checked_compression(options.get("compression") or compression)
            headers = Header.marked(headers)
            options |= sendable(self.app, message, headers, options)
            options |= self._admission(options)
            if "timelimit" in message.headers:
                headers["timelimit"] = self._limits(*message.headers["timelimit"])
            waited_since = None
            while True:
                # Anew for each try: kombu asks it before it mends the connection.
                bound = self._bounded(name, message, options)
                try:
                    return send(producer, name, message, headers=headers, **options | bound)
                except (OperationalError, BrokerUnreachableError, ResponseError) as error:
                    # What accepted work sends (its callbacks, its retry) is waited for without end:
                    # unsent, the work would be lost, or fail.
                    if options.get("retry") is False or not endures():
                        _raise_refused(name, message.headers, error)
                        raise _unreachable(name, message.headers, error) from error.__cause__
                    waited_since = pause(error, waited_since)
                headers[HEADER] = Header.read(message.headers).again()

        return send_task_message

    def _bounded(self, name: str, message: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Hive's retry policy, with an end by the clock.

        The policy itself counts tries only, and one may take as long as a silent connection does.
        """
        seconds = client_of(self.app).settings.hive_publish_timeout
        policy = self.app.conf.task_publish_retry_policy
        if options.get("retry_policy") or policy != retry_policy(seconds):
            return {}
        ends = time.monotonic() + seconds

        def look_at_the_clock(error: Exception, _interval: float) -> None:
            if time.monotonic() >= ends:
                raise _unreachable(name, message.headers, error) from error
            if isinstance(error, ResponseError) and passes(error):
                # kombu waits between tries to connect, but not between refusals.
                time.sleep(REFUSED_PAUSE)

        return {"retry_policy": {**policy, "errback": look_at_the_clock}}

    def _sends_for_nobody(self, name: str) -> bool:
        """Whether the run that sends was given to another node.

        That node sends the same: its callbacks, its retry, its tasks.
        """
        task = None if vouched_for() else get_current_worker_task()
        if task is None or not is_taken_away(self.app, task.request):
            return False
        log.warning("fenced_publication_dropped", task_id=task.request.id, task=name)
        return True

    def _admission(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The properties by which the channel knows what it may refuse. It does not send them."""
        if follows_up():
            return {"hive_follow_up": True}
        queue = options.get("queue")
        if isinstance(queue, str):
            queue = self.queues.get(queue)
        own = getattr(queue, "max_length", None) or (
            (getattr(queue, "queue_arguments", None) or {}).get("x-max-length")
        )
        limit = _length(own, queue) or client_of(self.app).settings.hive_queue_limit
        return {"hive_limit": limit} if limit else {}

    def _limits(self, hard: Limit, soft: Limit) -> list[Limit]:
        conf = self.app.conf
        if hard is None and not conf.task_time_limit:
            hard = 0  # it is lifted, which the watchdog has to know
        return [*fitting(hard, soft, conf)]


def _length(own: Any, queue: Any) -> int:
    """A queue's own limit; 0 for none. Raises: InvalidInputError for what is none."""
    try:
        limit = int(own or 0)
    except (TypeError, ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InvalidInputError(
            f"A queue's max_length (x-max-length) is a whole number; that of {queue.name} cannot "
            f"be {own!a:.100}."
        )
    return limit


def _raise_refused(task: str, headers: dict[str, Any], error: BaseException) -> None:
    """Raise HiveError where the broker is there and refused, since somebody's key or row is in the
    way; return where it is away.
    """
    cause = error if isinstance(error, ResponseError) else error.__cause__
    if isinstance(cause, ResponseError) and not passes(cause):
        raise HiveError(
            f"{task}[{headers.get('id')}] was not sent: the broker refused it ({said(cause)})."
        ) from cause


def _unreachable(task: str, headers: dict[str, Any], error: Exception) -> BrokerUnreachableError:
    if isinstance(error, BrokerUnreachableError):
        error.task_id = error.task_id or headers.get("id")
        return error
    publish_id = Header.read(headers).publish_id or None
    unknown = publish_id is not None and outcome_unknown(publish_id)
    what = (
        "may have been accepted: only the broker's reply is missing" if unknown else "was not sent"
    )
    return BrokerUnreachableError(
        f"{task}[{headers.get('id')}] {what}, since the broker does not answer ({error}); check "
        "REDIS_HOST, REDIS_PORT and that the server runs, and send it again.",
        outcome="unknown" if unknown else "unsent",
        publish_id=publish_id,
        task_id=headers.get("id"),
    )


def retry_policy(seconds: float) -> dict[str, float]:
    """Celery's `task_publish_retry_policy` that waits for a broker about so many seconds.

    The first pause is 0.1 s; they grow to one second.
    """
    start, step, longest = 0.1, 0.2, 1.0
    waited, tries = 0.0, 0
    while waited < seconds:
        waited += min(start + step * tries, longest)
        tries += 1
    return {
        "max_retries": tries,
        "interval_start": start,
        "interval_step": step,
        "interval_max": longest,
    }
