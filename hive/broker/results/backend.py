"""Celery's Redis result backend, for a hive.

A stored result also tells which node ran the task, when, and at which attempt; a run that was taken
away stores nothing; and a chord ends although its members are killed.
"""

# celery-types leaves most of Celery's Redis backend out.
# mypy: disable-error-code="attr-defined,call-arg"

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import redis
from celery.backends.redis import (
    CHORD_CLAIM_EXTEND_LUA,
    CHORD_CLEANUP_LUA,
    CHORD_PART_RETURN_LUA,
    RedisBackend,
)
from celery.exceptions import BackendStoreError
from celery.states import FAILURE, PENDING, STARTED

from hive.broker.channel.fence import is_taken_away
from hive.broker.channel.header import Header
from hive.broker.channel.patience import Patience
from hive.broker.channel.publishing import (
    chord_group,
    following_up,
    on_behalf_of,
    refuse_canvas,
)
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import client_of
from hive.broker.link.coding import SERIALIZER
from hive.broker.link.scripts import ALLOW_OOM, Script
from hive.broker.link.silence import keepalive
from hive.broker.results.failure import as_exception, as_failure
from hive.broker.results.store_line import StoreLines
from hive.broker.results.waiting import ResultConsumer, reading
from hive.errors import BrokerMemoryError, TaskFailedError
from hive.logs import get_logger

log = get_logger(__name__)

STORE = Script("hive.broker.results", "store_result", include=(LIBRARY,))
CHORD_ADD = Script("hive.broker.results", "chord_add")
_claim = Script("hive.broker.results", "chord_claim", refusable=True).text
CHORD_CLAIM = f"local function part_return()\n{CHORD_PART_RETURN_LUA}\nend\n{_claim}"


class Backend(RedisBackend):
    """Named in `result_backend` as `hive.broker.results.backend:Backend+redis://…`.

    A result's meta gains `hive`: node, attempt (deliveries that were lost before it + 1), created,
    started (unix seconds), priority and queue; `req`, its requirements, where it had some; `stated`
    where the state came from an executor outside Celery (TaskRecords.store).
    """

    ResultConsumer = ResultConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "serializer": SERIALIZER})

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(  # type: ignore[misc]
            result, state, traceback, request, *args, **kwargs
        )
        header = Header.of_request(request)
        if header is not None and (header.is_delivered or header.is_stated):
            delivery = getattr(request, "delivery_info", None) or {}
            meta["hive"] = {
                "node": header.node,
                "attempt": header.deaths + (getattr(request, "retries", 0) or 0) + 1,
                "created": header.created,
                "started": header.reserved,
                "priority": delivery.get("priority"),
                "queue": delivery.get("routing_key"),
            }
            more = {"req": header.requirements, "stated": header.is_stated}
            meta["hive"] |= {key: value for key, value in more.items() if value}
        return meta

    def encode_result(self, result: Any, state: str) -> Any:
        return super().encode_result(as_failure(result, state), state)

    def exception_to_python(self, exc: Any) -> Any:
        return as_exception(exc, super().exception_to_python)

    def meta_from_decoded(self, meta: Any) -> dict[str, Any]:
        """A result as it was stored, also by a program that stores no more than it must."""
        if not isinstance(meta, dict) or not isinstance(meta.get("status"), str):
            error = TaskFailedError("What is stored as its result cannot be read.", meta=meta)
            return {"status": FAILURE, "result": error}
        read: dict[str, Any] = super().meta_from_decoded({"result": None, **meta})
        return read

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_task_meta_for(task_id)  # type: ignore[misc]
        # Where nothing is stored, Celery says PENDING, and no more.
        return meta if meta["status"] == PENDING else {"task_id": task_id, **meta}

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        """Store a state in one round trip, where Celery takes two.

        A success is never overwritten, and a fenced run overwrites nothing.
        """
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        value = self.encode({**meta, "task_id": task_id})
        if len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError(
                "The result is larger than 512 MB, the most that Redis stores.",
                state=state,
                task_id=task_id,
            )
        delivery = Header.delivery_of(request)
        expires = self.failure_expires if state == FAILURE else self.expires
        holder = delivery or ("", "", "")
        arguments = (client_of(self.app).prefix, value, int(expires or 0), *holder)
        keyed = (1, self.get_key_for_task(task_id), *arguments)
        if state == STARTED and delivery is not None and self._lines.send(*keyed):
            return result  # a fenced run is told so when it stores its result
        stored = self._lines.store(*keyed)
        if stored is None:
            stored = self.ensure(STORE, (self.client, (self.get_key_for_task(task_id),), arguments))
        if stored < 0:
            incarnation = delivery.incarnation if delivery is not None else ""
            log.warning(
                "fenced_result_dropped", task_id=task_id, state=state, incarnation=incarnation
            )
        return result

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: Any = None, **kwargs: Any
    ) -> None:
        """Count a member's run, unless it was given to another node.

        A fenced run could end the chord, and its body would not be sent from here.
        """
        if request.group and is_taken_away(self.app, request):
            return
        with following_up():
            super().on_chord_part_return(request, state, result, propagate=propagate, **kwargs)

    def end_ignored_member(self, request: Any) -> None:
        """Let a chord go on whose member stated its own failure, and ended by `raise Ignore()`.

        Celery counts no ignored member: the chord would never end.
        """
        meta = self.get_task_meta(request.id, cache=False)
        if meta["status"] == FAILURE:
            with on_behalf_of(request):
                self.on_chord_part_return(request, FAILURE, meta["result"])

    def mark_as_failure(
        self,
        task_id: str,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        with on_behalf_of(request):
            return super().mark_as_failure(task_id, exc, traceback, request, *args, **kwargs)

    def get(self, key: Any) -> Any:
        """Look for a result. Raises: BrokerUnreachableError."""
        with reading():
            return super().get(key)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Count a task that a member adds, once.

        Celery's increment would be made again by a repeated run, and the chord would never end.
        """
        keys = [self.get_key_for_group(group_id, part) for part in (".t", ".d")]
        self.ensure(CHORD_ADD, (self.client, keys, (result.id, int(self.chord_expires or 0))))

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> Any:
        group_id, results = header_result_args
        refuse_canvas(self.app, {"body": body})  # before anything is written for the chord
        # Nobody knows the members of a generator before they are sent.
        if isinstance(results, list):
            group_id = chord_group(group_id, _first(results))
        return super().apply_chord((group_id, results), body, **kwargs)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        super().set_chord_size(chord_group(group_id), chord_size)

    @cached_property
    def _lines(self) -> StoreLines:
        return StoreLines(lambda: self.client, STORE)

    @cached_property
    def _chord_part_return_script(self) -> Any:
        return self.client.register_script(ALLOW_OOM + CHORD_CLAIM)

    @cached_property
    def _chord_claim_extend_script(self) -> Any:
        return self.client.register_script(ALLOW_OOM + CHORD_CLAIM_EXTEND_LUA)

    @cached_property
    def _chord_cleanup_script(self) -> Any:
        return self.client.register_script(ALLOW_OOM + CHORD_CLEANUP_LUA)

    def _create_client(self, **params: Any) -> Any:
        """Make redis-py's client, with Hive's patience and without transactions.

        A server without memory refuses everything in a transaction, even to read a chord's results.
        Celery needs none.
        """
        if params.get("socket_keepalive"):
            params["socket_keepalive_options"] = keepalive()
        client: Any = super()._create_client(**params, retry=Patience())  # type: ignore[misc]
        # The subscription is made without retries: one that redis-py mends by itself misses what
        # was told meanwhile, while Celery, when it mends one, looks at what is stored.
        client.pubsub = super()._create_client(**params).pubsub  # type: ignore[misc]
        client.pipeline = partial(client.pipeline, transaction=False)
        return client

    def ensure(self, fun: Any, args: Any, **policy: Any) -> Any:
        try:
            return super().ensure(fun, args, **policy)
        except redis.exceptions.OutOfMemoryError as error:
            raise BrokerMemoryError from error

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing when a task is sent.

        Who waits for a result subscribes then, and looks at what is stored. Celery would subscribe
        here already: two more commands a task, and with the broker away 20 s before it says so.
        """


def _first(results: Any) -> str:
    """The id of the first task among results and groups of results."""
    first = results[0]
    return _first(first.results) if getattr(first, "results", None) else str(first.id)
