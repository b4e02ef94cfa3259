"""`hive.idempotent`: a task with the same key completes once, however often it is delivered or
sent, and answers with the first result.

A claim on the key is held by the delivery that runs (publish id and incarnation), for as long as
the broker has it reserved. So a run that died holds nothing, without any timeout: the watchdog
takes its reservation away, or its node gives the message back.
"""

from __future__ import annotations

import functools
import inspect
import re
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis
from celery import Task
from celery._state import get_current_task
from celery.exceptions import Retry
from kombu.exceptions import EncodeError
from kombu.utils.json import loads

from hive.broker.channel.header import Header
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient, broker_errors
from hive.broker.link.coding import dumps
from hive.broker.link.outage import until_back
from hive.broker.link.scripts import Script
from hive.errors import HiveError, InvalidInputError
from hive.logs import get_logger

log = get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
MakeKey = Callable[[tuple[Any, ...], dict[str, Any]], str]

LONGEST_KEY = 500
"""Characters of a key, since keys are part of names in the broker."""
CLAIM_SECONDS = 7 * 86_400
"""A claim that nobody took over or completed is forgotten after a week."""
_SHORTEST_WAIT, _LONGEST_WAIT = 0.2, 5.0
_OUTAGE = float("inf")
"""Seconds for which a run tries to reach a broker that is away; without it the run could not keep
that it has completed. Its time limit ends it.
"""

_CLAIM = Script("hive.broker.channel", "once_claim", include=(LIBRARY,))
_COMPLETE = Script("hive.broker.channel", "once_complete", include=(LIBRARY,))
_RELEASE = Script("hive.broker.channel", "once_release", include=(LIBRARY,))


def idempotent(*, key: str | Callable[..., str]) -> Callable[[F], F]:
    """Let the task of the decorated function complete once for each key; stands below `@app.task`,
    `@shared_task` or `@hive.skill`.

    key: a format string over the function's parameters, as in "charge-{order_id}", or a callable
        that gets the function's arguments (without a bound task's self) and returns the key, a text
        of 1 to 500 characters. Keys of different tasks are different.

    The first run that returns is the completion. Every other delivery with its key, and every other
    task sent with it, answers with its result without running, for as long as results are kept
    (`result_expires`). A run that raises, is retried or dies is no completion: the next one runs.
    While one runs, others wait for it: a task is sent again with a countdown, its retries not
    counted, so that it takes no slot; an item of `hive.map`, which is no message, waits in its
    place.

    Returns: the decorator; the function behaves as ever where it is called directly, eagerly, or
    with ENABLE_HIVE=false. Raises: InvalidInputError for a format string that is none, or names
    what is no parameter; in the task, for a key that cannot be made of its arguments and for a
    result that is not JSON.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        name = getattr(function, "__name__", str(function))
        make_key = _formatter(key, name, signature) if isinstance(key, str) else _caller(key)

        @functools.wraps(function)
        def run_once(*args: Any, **kwargs: Any) -> Any:
            delivery = _Delivery.current()
            if delivery is None:
                return function(*args, **kwargs)
            return delivery.complete_once(
                _made_key(make_key, name, args, kwargs),
                functools.partial(function, *args, **kwargs),
            )

        # Celery looks for the parameters here.
        run_once.__signature__ = signature  # type: ignore[attr-defined]
        return cast("F", run_once)

    return decorate


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The message that this thread is running."""

    task: Any
    client: BrokerClient
    publish_id: str
    incarnation: str

    @classmethod
    def current(cls) -> _Delivery | None:
        """None where there is no delivery: a direct or eager call, an application without Hive."""
        task: Any = get_current_task()
        client = getattr(getattr(task, "app", None), "hive", None)
        delivery = Header.delivery_of(getattr(task, "request", None))
        if not isinstance(client, BrokerClient) or delivery is None:
            return None
        return cls(task, client, delivery.publish_id, delivery.incarnation)

    def complete_once(self, key: str, run: Callable[[], Any]) -> Any:
        """The result of the key's one completion, which may be this run's."""
        first = self._claim(key)
        if first is not None:
            log.info(
                "idempotent_task_had_completed",
                task=self.task.name,
                task_id=self.task.request.id,
                key=key,
            )
            return loads(first)
        try:
            result = run()
            value = self._encoded(result)
        except BaseException:
            self._release(key)
            raise
        kept = self._step(_COMPLETE, key, value, int(self.task.backend.expires or 0))
        return result if kept.decode() == value else loads(kept)

    def _claim(self, key: str) -> bytes | None:
        """Claim the key.

        Returns: None when this delivery has to run, else the first result. Raises: Retry to wait
        for another run.
        """
        waits_until = time.monotonic() + self.client.settings.hive_task_timeout
        while True:
            state, *details = self._step(
                _CLAIM, key, self.publish_id, self.incarnation, CLAIM_SECONDS
            )
            if state == b"yours":
                return None
            if state == b"done":
                return bytes(details[0])
            # A quarter of the time that the other run has taken so far: the result comes late by
            # little, and a long run is not asked for often.
            pause = min(max(_SHORTEST_WAIT, int(details[0]) / 4000), _LONGEST_WAIT)
            if not self.task.request.called_directly:
                self._send_again(pause)
            if time.monotonic() > waits_until:
                raise HiveError(
                    f"{self.task.name} is still running elsewhere for the key {key!r}; its result "
                    "is not known yet."
                )
            time.sleep(min(pause, 1.0))

    def _send_again(self, countdown: float) -> None:
        """Send the task again, as `retry` does, but uncounted.

        Waiting must not use up the retries that the task has for its own failures. And waiting in
        place would fill slots with tasks that do nothing, so that the one that runs would get none
        after its death.
        """
        request = self.task.request
        signature = self.task.signature_from_request(
            request, countdown=countdown, retries=request.retries
        )
        if not request.is_eager:  # as an item of a job, which its job runs again
            signature.apply_async()
        when: Any = countdown  # celery-types has no float here
        raise Retry(
            f"another delivery of {self.task.name} runs with its key", when=when, sig=signature
        )

    def _encoded(self, result: Any) -> str:
        try:
            return str(dumps(result))
        except (TypeError, ValueError, EncodeError) as error:
            raise InvalidInputError(
                f"{self.task.name} is idempotent, so its result has to be JSON: {error}."
            ) from error

    def _release(self, key: str) -> None:
        """Let others run at once; where this fails, the claim ends with the delivery."""
        try:
            self.client.run(_RELEASE, (), self._arguments(key, (self.publish_id, self.incarnation)))
        except redis.exceptions.RedisError as error:
            log.warning(
                "idempotent_claim_not_released",
                task=self.task.name,
                task_id=self.task.request.id,
                error=str(error),
            )

    def _step(self, script: Script, key: str, *values: Any) -> Any:
        """Run a step; each may be repeated, so a broker that is away is waited for."""

        def waits(error: Exception) -> None:
            log.warning(
                "idempotent_task_waits_for_broker",
                task=self.task.name,
                task_id=self.task.request.id,
                error=str(error),
            )

        def step() -> Any:
            return self.client.run(script, (), self._arguments(key, values))

        with broker_errors():
            return until_back(step, longest=_OUTAGE, waits=waits)

    def _arguments(self, key: str, values: Iterable[Any]) -> tuple[Any, ...]:
        return self.client.prefix, self.task.name, key, *values


def _formatter(text: str, name: str, signature: inspect.Signature) -> MakeKey:
    """A format string over the parameters."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise InvalidInputError(
            f"The key {text!r} of {name} is no format string: {error}."
        ) from None
    named = {re.split(r"[.\[]", field, maxsplit=1)[0] for field in fields}
    unknown = sorted(named - signature.parameters.keys())
    if unknown or not named:
        fault = (
            f"names {', '.join(map(repr, unknown))}"
            if unknown
            else "names no parameter, so that it would be the same for all"
        )
        raise InvalidInputError(
            f"The key {text!r} of {name} {fault}; {name} takes: {', '.join(signature.parameters)}."
        )

    def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return text.format_map(bound.arguments)

    return make


def _caller(key: Callable[..., str]) -> MakeKey:
    """A callable of the arguments, without a bound task's self."""
    if not callable(key):
        raise InvalidInputError(
            f"The key of an idempotent task is a format string or a callable, not {key!r}."
        )
    return lambda args, kwargs: key(
        *args[1 if args and isinstance(args[0], Task) else 0 :], **kwargs
    )


def _made_key(make_key: MakeKey, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:
        key: object = make_key(args, kwargs)
    except Exception as error:
        raise InvalidInputError(
            f"The key of {name} cannot be made of its arguments: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY:
        told = f"one of {len(key)}" if isinstance(key, str) else repr(key)
        raise InvalidInputError(
            f"The key of {name} has to be a text of 1 to {LONGEST_KEY} characters, not {told}."
        )
    return key
