"""ParallelSkill, for agents: work described in plain words, done on all nodes, as JSON text."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from hive import json_text
from hive.agents.arguments import item_field
from hive.agents.report import ItemReport, Report
from hive.agents.resolve import Resolution, Resolver
from hive.broker.application import skills_of
from hive.broker.ledger.records import TaskStatus
from hive.broker.ledger.stored import require_results
from hive.broker.link.client import broker_errors
from hive.broker.link.names import is_encodable
from hive.broker.link.outage import PAUSE, READERS_WAIT, Outage
from hive.broker.link.unreadable import ask, skip
from hive.broker.message_broker import MessageBroker
from hive.errors import (
    BrokerMemoryError,
    BrokerUnreachableError,
    HiveError,
    InvalidInputError,
    NoNodeOnlineError,
    QueueFullError,
    UnknownJobError,
)
from hive.jobs.answer.job import Job, job
from hive.jobs.mapping import map as hive_map
from hive.jobs.state.plan import time_to_live

_SUBTASKS = TypeAdapter(list[str])
P = ParamSpec("P")
T = TypeVar("T")

_FIRST_LOOK, _LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two looks at the sub-tasks: short at first, growing with the wait."""


@dataclass(slots=True)
class _Answer:
    """What is known so far; also the answer when something goes wrong halfway."""

    results: list[ItemReport]
    job_id: str | None = None

    @property
    def nothing_ran(self) -> bool:
        return all(result.status == "pending" for result in self.results)


class ParallelSkill:
    """Runs one skill over many items, or several sub-tasks side by side.

    root: the directory under which paths are looked for that do not exist as given; the working
        directory by default.

    Each method answers with JSON text and raises nothing for a user's mistake or an absent cluster:
    the answer has `error` then. A broker that goes away while it is waited for is waited for, too,
    two minutes at most and no longer than `wait_timeout`.
    """

    def __init__(self, broker: MessageBroker, root: str | Path | None = None) -> None:
        self._broker = broker
        self._root = (Path.cwd() if root is None else Path(root)).absolute()

    async def map_reduce(
        self,
        task_description: str,
        items: str,
        priority: str | int = "background",
        wait_timeout: float = 300.0,
    ) -> str:
        """Do the same with each item.

        task_description: what to do, in plain words or by a skill's name. items: JSON text, a list;
            an item is the skill's one argument, or an object of its arguments. priority:
            high_priority, background or 0..10. wait_timeout: seconds to wait; what is not over then
            is pending and goes on: ask for it with the answer's job_id.

        Returns: JSON text {"summary", "results", "job_id"}, with "error" where it cannot be done.
        """
        answer = _Answer([])
        return await self._answered(
            answer, self._map(answer, task_description, items, priority, wait_timeout)
        )

    async def parallel_execute(
        self,
        task_description: str,
        subtasks: str,
        priority: str | int = "background",
        wait_timeout: float = 300.0,
    ) -> str:
        """Do several things at the same time.

        task_description: what it is all about. subtasks: JSON text, a list of descriptions in plain
            words. priority, wait_timeout: as for `map_reduce`.

        Returns: JSON text {"summary", "results", "job_id"}, with "error" where nothing of it can be
            done. A sub-task that no skill does has failed; the others run.
        """
        answer = _Answer([])
        return await self._answered(
            answer, self._execute(answer, task_description, subtasks, priority, wait_timeout)
        )

    async def get_task_status(self, task_id: str) -> str:
        """How far a job is (the job_id of an answer), or a single task.

        Returns: JSON text as of `map_reduce`, with "error" when no such job or task is known.
        """
        answer = _Answer([], task_id)
        return await self._answered(answer, self._status(answer, task_id))

    async def _answered(self, answer: _Answer, work: Awaitable[None]) -> str:
        try:
            await work
        except HiveError as error:
            return Report.of(answer.results, answer.job_id, error.message).to_json()
        return Report.of(answer.results, answer.job_id).to_json()

    # -- one skill, many items

    async def _map(
        self,
        answer: _Answer,
        description: str,
        items: str,
        priority: str | int,
        wait_timeout: float,
    ) -> None:
        listed = _parsed_list(items, "items")
        seconds = _checked_wait(wait_timeout)
        resolver = await self._resolver()
        resolution = resolver.resolve_map(_checked_text(description, "task_description"))
        calls = [_call_of(resolution, item) for item in listed]
        started = await asyncio.to_thread(
            hive_map, resolution.skill, calls, priority=priority, app=self._broker.app
        )
        answer.job_id = started.id
        answer.results = [
            ItemReport(item_index=index, status="pending") for index in range(len(calls))
        ]
        try:
            async with asyncio.timeout(seconds):
                async for outcome in started:
                    answer.results[outcome.index] = ItemReport.of_outcome(outcome)
        except TimeoutError:
            await self._expect_nodes(answer)

    # -- several skills

    async def _execute(
        self,
        answer: _Answer,
        description: str,
        subtasks: str,
        priority: str | int,
        wait_timeout: float,
    ) -> None:
        require_results(self._broker.app, "parallel_execute")
        texts = _parsed_list(subtasks, "subtasks")
        seconds = _checked_wait(wait_timeout)
        resolver = await self._resolver()
        context = _checked_text(description, "task_description")
        found = [_resolved(resolver, text, context) for text in texts]
        faults = [fault for fault in found if isinstance(fault, HiveError)]
        if len(faults) == len(found):
            raise faults[0]
        answer.results = [
            ItemReport(item_index=index, status="pending") for index in range(len(found))
        ]
        ids = [str(uuid.uuid4()) for _ in found]
        # Before any of them runs: so what was sent is found again, whatever happens meanwhile.
        answer.job_id = await self._sent(asyncio.to_thread, self._keep_together, ids)
        await asyncio.gather(
            *(self._send(one, task_id, priority) for one, task_id in zip(found, ids, strict=True))
        )
        await self._wait_for_tasks(answer, ids, seconds)

    async def _send(self, found: Resolution | HiveError, task_id: str, priority: str | int) -> None:
        """Send one sub-task.

        One that cannot be sent gets a record that says why, and so is found among the others later.
        """
        broker = self._broker
        if isinstance(found, Resolution):
            name, arguments = found.skill.name, found.arguments
            try:
                # Under an id of its own it is one task, however often it is sent.
                await self._sent(broker.enqueue_task, name, arguments, priority, task_id)
                return
            except (InvalidInputError, QueueFullError, BrokerMemoryError) as error:
                found = error
        failed = partial(broker.update_task_status, task_id, "failed", error=found.message)
        await self._sent(failed)

    async def _sent(self, send: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what may be done again, and wait for the broker as long as a task's sender does.

        Raises: BrokerUnreachableError.
        """
        outage = Outage(self._broker.settings.hive_publish_timeout)
        while True:
            try:
                return await send(*args, **kwargs)
            except BrokerUnreachableError as error:
                outage.came(error)
                await asyncio.sleep(PAUSE)

    def _keep_together(self, ids: Sequence[str]) -> str:
        """Remember which tasks the sub-tasks are, as long as their results are kept.

        Not as Celery's GroupResult: making one subscribes to every result, and dropping one waits
        for a broker that is away.
        """
        job_id, client = uuid.uuid4().hex, self._broker.client
        with broker_errors():
            client.redis.set(
                client.key("subtasks", job_id),
                json.dumps(list(ids)),
                ex=time_to_live(self._broker.app, 0.0, None),
            )
        return job_id

    async def _wait_for_tasks(self, answer: _Answer, ids: Sequence[str], seconds: float) -> None:
        pause = _FIRST_LOOK
        outage = Outage(READERS_WAIT)
        try:
            async with asyncio.timeout(seconds):
                while waiting := [
                    index
                    for index, result in enumerate(answer.results)
                    if result.status == "pending"
                ]:
                    try:
                        for index in waiting:
                            answer.results[index] = ItemReport.of_task(
                                index, await self._broker.get_task_status(ids[index])
                            )
                        outage.over()
                    except BrokerUnreachableError as error:
                        outage.came(error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
        except TimeoutError:
            await self._expect_nodes(answer)

    # -- looking later

    async def _status(self, answer: _Answer, task_id: str) -> None:
        try:
            found = await asyncio.to_thread(job, task_id, app=self._broker.app)
        except UnknownJobError:
            pass
        else:
            answer.results = await asyncio.to_thread(_of_job, found)
            return
        members = await asyncio.to_thread(self._members, task_id)
        tasks: list[TaskStatus | None] = [
            await self._broker.get_task_status(member) for member in members or [task_id]
        ]
        if not members and tasks == [None]:
            answer.job_id = None
            raise UnknownJobError(
                f"No job or task has the id {task_id!r}, or its record has expired."
            )
        answer.results = [ItemReport.of_task(index, task) for index, task in enumerate(tasks)]

    def _members(self, job_id: str) -> list[str]:
        client = self._broker.client
        if not is_encodable(job_id):
            return []
        with broker_errors():
            key = client.key("subtasks", job_id)
            stored: bytes | None = ask(client, client.redis.get, key)
        if stored is None:
            return []
        try:
            return _SUBTASKS.validate_json(stored)
        except ValidationError as error:
            skip(client, key, "", error.errors()[0]["msg"])
            return []

    # -- both

    async def _resolver(self) -> Resolver:
        skills = await asyncio.to_thread(skills_of, self._broker.app)
        return Resolver(skills.values(), self._root)

    async def _expect_nodes(self, answer: _Answer) -> None:
        """The wait is over.

        Raises: NoNodeOnlineError when nothing ran and nobody is there to run it.
        """
        if not answer.nothing_ran:
            return
        nodes = await asyncio.to_thread(self._nodes)
        if not any(node.online for node in nodes.values()):
            raise NoNodeOnlineError(
                "No node was online until the wait ended; start one with `hive spore`. The work "
                "waits for it."
            )

    def _nodes(self) -> Mapping[str, Any]:
        with broker_errors():
            return self._broker.nodes.read()


def _parsed_list(text: object, name: str) -> list[Any]:
    """Raises: InvalidInputError for what is not a JSON list with something in it."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{name} must be JSON text, a list, not {type(text).__name__}.")
    try:
        value = json_text.read(text)
    except ValueError as error:
        raise InvalidInputError(
            f'{name} is not JSON ({error}); give a list, for instance ["a", "b"].'
        ) from None
    if not isinstance(value, list):
        raise InvalidInputError(f"{name} must be a JSON list, not {_json_kind(value)}.")
    if not value:
        raise InvalidInputError(f"{name} is an empty list; there is nothing to do.")
    return value


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _checked_text(text: object, name: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"{name} must be a text that says what to do.")
    return text


def _checked_wait(seconds: object) -> float:
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 <= seconds < float("inf")
    ):
        raise InvalidInputError(f"wait_timeout is a number of seconds from 0 on, not {seconds!r}.")
    return float(seconds)


def _call_of(resolution: Resolution, item: Any) -> Any:
    """The item as `hive.map` takes it, with the arguments that the description gave."""
    if not resolution.arguments:
        return item
    if isinstance(item, Mapping):
        return {**resolution.arguments, **item}
    return {item_field(resolution.skill): item, **resolution.arguments}


def _resolved(resolver: Resolver, text: object, context: str) -> Resolution | HiveError:
    try:
        return resolver.resolve_task(_checked_text(text, "A sub-task"), context)
    except HiveError as error:
        return error


def _of_job(found: Job) -> list[ItemReport]:
    outcomes = {
        outcome.index: ItemReport.of_outcome(outcome)
        for outcome in found.result(timeout=0).outcomes
    }
    progress = found.progress()
    done = progress.completed + progress.failed + progress.cancelled
    total = (
        progress.total if progress.total is not None else done + progress.running + progress.pending
    )
    return [
        outcomes.get(index) or ItemReport(item_index=index, status="pending")
        for index in range(max(total, len(outcomes)))
    ]
