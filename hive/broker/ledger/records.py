"""Task records: what is known about a task.

Nothing is written for them while tasks run: the channel's entry tells of a task that waits or runs,
the result's meta of one that has ended.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from celery import Celery, states
from celery.app.task import Context
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.channel.entries import Entry
from hive.broker.channel.header import Header
from hive.broker.channel.publishing import derived_id
from hive.broker.channel.steps import LIBRARY
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.ledger.stored import (
    asking,
    decoded,
    forget_failure,
    require_results,
    stored_meta,
    stored_result,
)
from hive.broker.ledger.waiting import memory_wait
from hive.broker.link.client import client_of
from hive.broker.link.names import is_encodable
from hive.broker.link.priorities import DEFAULT, HIGHEST, usable
from hive.broker.link.scripts import Script
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeTable
from hive.errors import HiveError, InvalidInputError, UnknownSkillError
from hive.json_text import sayable
from hive.skills import Skill, find_skill, import_skills, skill_of_task

State = Literal["pending", "running", "completed", "failed", "dead"]

_LOCATE = Script("hive.broker.ledger", "locate", include=(LIBRARY,))
_CELERY_STATES = {
    "pending": states.PENDING,
    "running": states.STARTED,
    "completed": states.SUCCESS,
    "failed": states.FAILURE,
}


class TaskStatus(BaseModel):
    """One task as the cluster knows it now. Times are in UTC; what is not known (yet) is None."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    task_type: str
    """The skill's name; for a plain Celery task the task's."""
    payload: dict[str, Any]
    """Its arguments by name; those whose name is not known here are listed under `args`."""
    priority: str | int | None
    """high_priority or background; the number where one was given."""
    status: State
    assigned_node: str | None = None
    attempt: int = 0
    """The run in hand, or the last one, counted from 1; 0 while it has not run."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result: Any = None
    error: str | None = None
    waits_for: str | None = None
    """Why it does not start, where that is known: the memory that it demands is not free."""

    @property
    def over(self) -> bool:
        """Nothing more will happen to it by itself."""
        return self.status in ("completed", "failed", "dead")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an unfinished task is in the channel, as lua/locate.lua says.

    `since` is in unix seconds by the broker's clock.
    """

    name: str
    node: str
    since: float
    reason: str
    entry: Entry


class TaskRecords:
    """Reads task records of one application, and stores states for executors outside Celery.

    Its calls block.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._imported = False

    def read(self, task_id: str) -> TaskStatus | None:
        """What is known of a task.

        None when no task has that id, or its result has expired or was never kept.

        Raises: HiveError when it may have ended, and the application's result backend cannot tell
            of that; redis-py's connection errors.
        """
        if not is_encodable(task_id):
            return None
        # First the place, then the result: a task that ends between the two is found by its result.
        # The second round is for a task that is being sent again: its old result went away after
        # its place was looked up.
        for _ in range(2):
            place, meta = self.locate(task_id), self.meta(task_id)
            if meta is not None and (place is None or _knows_better(meta, place)):
                return self._by_result(task_id, meta, place)
            if place is not None:
                return self._by_place(task_id, place, meta or {})
        require_results(self._app, "The record of a task that does not wait or run")
        return None

    def locate(self, task_id: str) -> Place | None:
        """Where an unfinished task is; None when the channel does not hold it."""
        client = client_of(self._app)
        reply = client.run(_LOCATE, (), (client.prefix, task_id))
        if not reply:
            return None
        name, node, ms, reason, publish_id = (part.decode(errors="replace") for part in reply[:5])
        try:
            entry = Entry.unpack(publish_id, reply[5])
        except ValueError:
            entry = Entry.head(publish_id, reply[5])
        return Place(name, node, float(ms) / 1000, reason, entry)

    def meta(self, task_id: str) -> dict[str, Any] | None:
        """The stored result's meta, as Celery decodes it; None when nothing is stored."""
        meta = stored_meta(self._app, task_id)
        return None if meta is None else _usable(meta)

    def store(
        self,
        task_id: str,
        status: str,
        *,
        assigned_node: str | None,
        result: Any,
        error: str | None,
    ) -> bool:
        """Store a state in the result backend.

        Returns: False when the task is completed, which is final.

        Raises: InvalidInputError for another status than pending, running, completed or failed.
        """
        if status not in _CELERY_STATES:
            known = ", ".join(_CELERY_STATES)
            raise InvalidInputError(
                f"A task cannot be set to {status!r}; the states are {known} (dead is what the "
                "watchdog finds)."
            )
        now = self.read(task_id)
        if now is not None and now.status == "completed":
            return False
        request = Context(
            id=task_id,
            task=None,
            args=[],
            kwargs={},
            hostname=assigned_node,
            retries=0,
            children=[],
        )
        node, started, created = assigned_node, time.time(), None
        if now is not None:
            node = assigned_node or now.assigned_node
            created = now.created_at.timestamp() if now.created_at else None
            if now.status != "pending" and now.started_at is not None:
                started = now.started_at.timestamp()
            request.update(task=_task_name(now.task_type), kwargs=now.payload)
        request.update(Header.stated_by(node, started, created), hostname=node)
        value = (
            HiveError(error or "It failed; no reason was given.") if status == "failed" else result
        )
        with asking(self._app):
            self._app.backend.store_result(task_id, value, _CELERY_STATES[status], request=request)
        return True

    def send_again(self, task_id: str) -> bool:
        """Send a failed or dead task again under its id, and forget its stored failure.

        Returns: False when it is neither, or the record does not say what was run.
        """
        now = self.read(task_id)
        if now is None or now.status not in ("failed", "dead"):
            return False
        if now.status == "dead":
            return DeadLetters(self._app).retry(task_id)
        # Read again: another caller may have sent it meanwhile, and what is stored now may be that
        # run's start or end.
        stored = stored_result(self._app, task_id)
        meta = {} if stored is None else decoded(self._app, stored)
        if _state_of(meta.get("status", states.PENDING)) != "failed" or not self._publish_again(
            task_id, meta
        ):
            return False
        forget_failure(self._app, task_id, stored)
        return True

    def _publish_again(self, task_id: str, meta: dict[str, Any]) -> bool:
        if not meta.get("name"):
            return False
        hive = _added(meta)
        options: dict[str, Any] = {
            "queue": hive.get("queue") or meta.get("queue"),
            "priority": usable(hive.get("priority")),
            "requirements": hive.get("req"),
        }
        # Two callers at once derive the same publish id from the failure, so that the broker takes
        # one.
        headers = Header.under_id(derived_id(task_id, "again", meta.get("date_done")))
        self._app.send_task(
            meta["name"],
            meta.get("args") or [],
            meta.get("kwargs") or {},
            task_id=task_id,
            headers=headers,
            ignore_result=False,
            **{name: value for name, value in options.items() if value is not None},
        )
        return True

    def _by_place(self, task_id: str, place: Place, meta: dict[str, Any]) -> TaskStatus:
        entry, hive = place.entry, _added(meta)
        retries = entry.headers.get("retries")
        runs = entry.deaths + (retries if isinstance(retries, int) else 0)
        try:
            args, kwargs, _ = entry.body()
        except ValueError:  # a stranger may have sent anything
            args, kwargs = [], {}
        status: State = (
            "running" if place.name == "reserved" else "dead" if place.name == "dead" else "pending"
        )
        return TaskStatus(
            task_id=task_id,
            task_type=self._task_type(entry.task_name),
            payload=_payload(skill_of_task(entry.task_name), args, kwargs),
            priority=self._priority(entry.home, HIGHEST - entry.index),
            status=status,
            assigned_node=place.node or (hive.get("node") if status == "dead" else None),
            attempt=runs + 1 if status == "running" else runs,
            created_at=_moment(entry.created),
            started_at=_moment(place.since if status == "running" else hive.get("started")),
            completed_at=_moment(place.since) if status == "dead" else None,
            error=place.reason or None,
            waits_for=self._memory_wait(place),
        )

    def _memory_wait(self, place: Place) -> str | None:
        demands = Header.read(place.entry.headers).requirements or {}
        if place.name not in ("queued", "placed") or not demands.get("memory_mb"):
            return None
        try:
            requirements = Requirements.parse(demands)
        except InvalidInputError:  # a later release's
            return None
        client = client_of(self._app)
        nodes = NodeTable(client).read()
        if place.node:
            nodes = {name: node for name, node in nodes.items() if name == place.node}
        return memory_wait(client, requirements, nodes) if requirements else None

    def _by_result(self, task_id: str, meta: dict[str, Any], place: Place | None) -> TaskStatus:
        hive = _added(meta)
        state = meta["status"]
        done = meta.get("date_done")
        created = place.entry.created if place else hive.get("created")
        queue, number = hive.get("queue") or meta.get("queue"), hive.get("priority")
        if place is not None:
            queue, number = place.entry.home, HIGHEST - place.entry.index
        return TaskStatus(
            task_id=task_id,
            task_type=self._task_type(meta.get("name")),
            payload=_payload(
                skill_of_task(meta.get("name")), meta.get("args") or [], meta.get("kwargs") or {}
            ),
            priority=self._priority(queue, number),
            status=_state_of(state),
            assigned_node=hive.get("node") or meta.get("worker"),
            attempt=hive.get("attempt") or (meta.get("retries") or 0) + (state != states.PENDING),
            created_at=_moment(created),
            started_at=_moment(hive.get("started")),
            completed_at=_moment(done) if state in states.READY_STATES else None,
            result=meta.get("result") if state == states.SUCCESS else None,
            error=_error_text(state, meta.get("result")),
        )

    def _task_type(self, task_name: str | None) -> str:
        """The name of the skill behind a task, or the task's own."""
        if skill_of_task(task_name) is None and not self._imported:
            # A process that only looks has not imported the modules that its workers import.
            import_skills(self._app)
            self._imported = True
        skill = skill_of_task(task_name)
        return skill.name if skill is not None else task_name or ""

    def _priority(self, queue: str | None, number: int | None) -> str | int | None:
        settings = client_of(self._app).settings
        if number is not None and number != DEFAULT:
            return number
        names = {
            settings.hive_high_priority_queue: "high_priority",
            settings.hive_background_queue: "background",
        }
        return names.get(queue or "", number)


class _Added(BaseModel):
    """What Hive's result backend adds to a result, as far as this release can read it."""

    model_config = ConfigDict(extra="ignore")

    node: str | None = None
    attempt: int | None = None
    created: float | None = Field(None, ge=0, lt=1e11)
    started: float | None = Field(None, ge=0, lt=1e11)
    priority: int | None = None
    queue: str | None = None
    req: dict[str, Any] | None = None
    stated: bool | None = None


def _added(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The result's part `hive`: fields that another release wrote in another form are left out."""
    found = meta.get("hive")
    given = dict(found) if isinstance(found, Mapping) else {}
    while True:
        try:
            return _Added.model_validate(given).model_dump(exclude_none=True)
        except ValidationError as error:
            for fault in error.errors():
                given.pop(fault["loc"][0], None)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "args": (list, tuple),
    "kwargs": Mapping,
    "worker": str,
    "queue": str,
    "retries": int,
}


def _usable(meta: dict[str, Any]) -> dict[str, Any]:
    """A result's meta without what another program wrote in another form."""
    return {
        name: value
        for name, value in meta.items()
        if value is None or name not in _TYPES or isinstance(value, _TYPES[name])
    }


def _knows_better(meta: dict[str, Any], place: Place) -> bool:
    """Whether the stored result says more than the task's place in the channel."""
    if meta["status"] == states.SUCCESS:
        return True
    if place.name == "reserved":
        # A stored end is that of a run whose acknowledgement is on its way.
        return meta["status"] in states.READY_STATES
    # Elsewhere the entry of a failure has come back since, and runs again. But what an executor
    # outside Celery has stated, it stated after that.
    return place.name != "dead" and bool(_added(meta).get("stated"))


def _state_of(state: str) -> State:
    if state == states.SUCCESS:
        return "completed"
    if state in states.READY_STATES:
        return "failed"
    return "pending" if state in (states.PENDING, states.RETRY, states.RECEIVED) else "running"


def _error_text(state: str, result: Any) -> str | None:
    if state not in states.EXCEPTION_STATES or state == states.RETRY:
        return None
    if isinstance(result, HiveError):
        return sayable(result.message)
    return sayable(
        f"{type(result).__name__}: {result}" if isinstance(result, BaseException) else str(result)
    )


def _moment(value: Any) -> datetime | None:
    """Unix seconds, or ISO text (Celery's own are in UTC), as a time in UTC; None for what another
    program wrote in another form.
    """
    if value is None:
        return None
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _task_name(task_type: str) -> str:
    try:
        return str(find_skill(task_type).task.name)
    except UnknownSkillError:
        return task_type


def _payload(skill: Skill | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the parameters' names."""
    if skill is None:
        names: list[str] = []
    elif skill.input is not None:
        names = list(skill.input.model_fields)
    else:
        names = list(inspect.signature(skill.task.run).parameters)
    given = {sayable(name): value for name, value in kwargs.items()}
    named = dict(zip(names, args, strict=False)) | given
    return named | ({"args": list(args[len(names) :])} if len(args) > len(names) else {})
