"""MessageBroker: tasks, their records, queue statistics and commands to the nodes, for programs
that live in asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from celery import Celery
from kombu.exceptions import EncodeError
from kombu.utils.json import loads

from hive.applications import application
from hive.broker.application import require_sending, skill_of
from hive.broker.channel.header import Header
from hive.broker.channel.publishing import derived_id
from hive.broker.control.broadcast import BroadcastCaller
from hive.broker.control.mailbox import HIVE_COMMAND
from hive.broker.control.subscription import BroadcastSubscription
from hive.broker.ledger.queue_stats import queue_stats
from hive.broker.ledger.records import TaskRecords, TaskStatus
from hive.broker.ledger.stored import require_results
from hive.broker.ledger.zombies import ZombieTask, read_zombies
from hive.broker.link.client import broker_errors, client_of
from hive.broker.link.coding import dumps
from hive.broker.link.format import require_format
from hive.broker.link.names import asked_id, checked_name, id_text
from hive.broker.link.priorities import queue_of
from hive.broker.nodes.table import NodeTable
from hive.errors import ClusterUnreachableError, DuplicateTaskError, InvalidInputError
from hive.logs import get_logger
from hive.skills import Skill

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class MessageBroker:
    """One application's way to its broker.

    app: an application with Hive installed; if not given, the one that is meant
        (hive.applications): this thread's current one, or the last in which Hive was installed.

    `connect` only looks whether the broker is there. Every method opens what it needs, and raises
    BrokerUnreachableError when the broker does not answer, BrokerAuthError when it refuses the
    credentials, StoredFormatError when the data there is of a release that this one cannot serve.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self.app = application(app)
        self.client = client_of(self.app)
        self.settings = self.client.settings
        self.records = TaskRecords(self.app)
        self.nodes = NodeTable(self.client)
        self._caller = BroadcastCaller(self.app)
        self._where = self.client.address
        self._connected = False

    # -- connection

    async def connect(self) -> bool:
        """Look whether the broker answers.

        Returns: False, with the reason in the log, when it does not.
        """
        try:
            await self._in_thread(self.client.redis.ping)
        except ClusterUnreachableError as error:
            log.error("broker_unreachable", broker=self._where, reason=error.message)
        return self._connected

    async def disconnect(self) -> None:
        """Close this process's connections; using the broker again opens them anew."""
        await asyncio.to_thread(self._caller.close)
        await asyncio.to_thread(self.client.close)
        self._connected = False

    def is_connected(self) -> bool:
        """Whether the broker answered when it was last asked."""
        return self._connected

    # -- tasks

    async def enqueue_task(
        self,
        task_type: str,
        payload: Mapping[str, Any],
        priority: str | int = "background",
        task_id: str | UUID | None = None,
    ) -> str:
        """Send a task to the cluster.

        task_type: a skill's name. payload: the skill's input, by name.
        priority: high_priority or background, which choose the queue; or 0..10 with 10 the most
            urgent, in the background queue.
        task_id: an id of the caller's own. If a task has that id and is the same, nothing is sent:
            one id never makes a second run while that task's record is kept.

        Returns: the task's id.
        Raises: UnknownSkillError, InvalidInputError, DuplicateTaskError when another task has that
            id, NoEligibleNodeError, BrokerUnreachableError (its `outcome` says whether the task may
            have been sent), BrokerAuthError, HiveError with `task_always_eager`.
        """
        require_sending(self.app, "enqueue_task")
        skill = skill_of(self.app, task_type)
        checked = _checked_payload(skill, payload)
        queue, number = queue_of(priority, self.settings)
        options = {"queue": queue} if number is None else {"queue": queue, "priority": number}
        if task_id is None:
            return await self._in_thread(self._send, skill, checked, options)
        task_id = checked_name("A task_id", id_text(task_id))
        require_results(self.app, "enqueue_task with a task_id")
        return await self._in_thread(self._send_once, skill, checked, options, task_id)

    async def get_task_status(self, task_id: str | UUID) -> TaskStatus | None:
        """The task's record.

        None when no task has that id, or its result has expired or was never kept.
        """
        return await self._in_thread(self.records.read, asked_id(task_id))

    async def update_task_status(
        self,
        task_id: str | UUID,
        status: str,
        assigned_node: str | None = None,
        result: Any = None,
        error: str | None = None,
    ) -> bool:
        """Store how far a task is, for an executor outside Celery: spores do it by themselves.

        status: pending, running, completed or failed.
        result: of a completed task, what JSON can hold. error: why it failed.

        Returns: False when the task is completed already, which is final.
        Raises: InvalidInputError.
        """
        require_results(self.app, "update_task_status")
        if result is not None:
            _require_json(result, "A result")
        return await self._in_thread(
            self.records.store,
            asked_id(task_id),
            status,
            assigned_node=assigned_node,
            result=result,
            error=error,
        )

    async def retry_task(self, task_id: str | UUID) -> bool:
        """Send a failed or dead task again, under its id.

        Chains and chords that it was part of do not go on with it.

        Returns: False when it is not known, neither failed nor dead, or its record does not say
            what was run.
        """
        return await self._in_thread(self.records.send_again, asked_id(task_id))

    # -- the cluster

    async def broadcast_control(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        wait_timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send one of Hive's commands to all nodes, and wait until every online node has answered.

        arguments: what the command takes, JSON. wait_timeout: seconds to wait at most; by default
            HIVE_DEAD_AFTER, after which a node is not heard of.

        Returns: the replies by node id: {"ok": …} or {"error": "…"}; a node that did not answer is
            missing.
        Raises: InvalidInputError when JSON cannot hold the arguments.
        """
        given = dict(arguments or {})
        _require_json(given, "The arguments of a command")
        seconds = self.settings.dead_after if wait_timeout is None else wait_timeout
        return await self._in_thread(self._broadcast, command, given, seconds)

    async def subscribe_broadcast(self) -> BroadcastSubscription:
        """Hear the commands that are broadcast from now on.

        `async for command in subscription.listen()` gives them as they come.

        Each has "command", "arguments", "destination" and "ticket", and as redis-py's messages
        "type", "channel" and "data"; `close` ends it.
        """
        subscription = BroadcastSubscription(self.app)
        try:
            await self._in_thread(subscription.start, asyncio.get_running_loop())
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def get_queue_stats(self) -> dict[str, Any]:
        """How many tasks are where, all counted at one instant.

        Returns: high_priority_queue, background_queue (waiting there), total_queued (waiting in any
            queue or at a node), tasks_pending (also those not due yet), tasks_running, tasks_dead;
            tasks_completed and tasks_failed since the broker's data began; connected.
        """
        return await self._in_thread(queue_stats, self.client)

    async def detect_zombie_tasks(self) -> list[ZombieTask]:
        """Tasks that the watchdog found in the last hour: reserved by a node that does not run
        them, or running far beyond their limit. It has given them back.

        Returns: their ids, sorted; each is a text that also has `task_id`, `node`, `reason` and
            `started_at` (local time, without a zone, as `datetime.now()` is).
        """
        return await self._in_thread(read_zombies, self.client)

    # -- in threads, since redis-py's and kombu's calls block

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def guarded() -> T:
            with broker_errors(self._where):
                require_format(self.client)
                return function(*args, **kwargs)

        try:
            value = await asyncio.to_thread(guarded)
        except ClusterUnreachableError:
            self._connected = False
            raise
        self._connected = True
        return value

    def _send(
        self, skill: Skill, payload: dict[str, Any], options: dict[str, Any], **more: Any
    ) -> str:
        task = self.app.tasks.get(skill.task.name, skill.task)
        try:
            # The result is the task's record: without it the task would look like one that never
            # was.
            return str(task.apply_async((), payload, ignore_result=False, **options, **more).id)
        except TypeError as error:
            raise InvalidInputError(f"{skill.name} cannot use its input: {error}.") from None
        except EncodeError as error:
            raise InvalidInputError(f"{skill.name}: JSON cannot hold its input: {error}.") from None

    def _send_once(
        self, skill: Skill, payload: dict[str, Any], options: dict[str, Any], task_id: str
    ) -> str:
        if self._same(skill, payload, task_id):
            return task_id
        # Of two callers at once the broker accepts the first publication, and ignores the other.
        headers = Header.under_id(derived_id(task_id))
        self._send(skill, payload, options, task_id=task_id, headers=headers)
        self._same(skill, payload, task_id)
        return task_id

    def _same(self, skill: Skill, payload: dict[str, Any], task_id: str) -> bool:
        """Whether that id is taken by this very task.

        Raises: DuplicateTaskError when another has it.
        """
        known = self.records.read(task_id)
        if known is None:
            return False
        if (known.task_type, known.payload) != (skill.name, payload):
            raise DuplicateTaskError(
                f"The task id {task_id!r} was used for another task ({known.task_type}); choose a "
                "new one."
            )
        return True

    def _broadcast(self, command: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        online = {node_id for node_id, node in self.nodes.read().items() if node.online}
        replies = self._caller.call(
            HIVE_COMMAND, {"command": command, "arguments": arguments}, online, timeout=timeout
        )
        if silent := online - replies.keys():
            log.warning(
                "broadcast_unanswered", command=command, nodes=sorted(silent), timeout=timeout
            )
        return replies


def _checked_payload(skill: Skill, payload: object) -> dict[str, Any]:
    if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
        raise InvalidInputError(
            f"The payload of {skill.name} is an object of its arguments by name, not "
            f"{type(payload).__name__}."
        )
    as_sent: dict[str, Any] = _require_json(dict(payload), f"The payload of {skill.name}")
    skill.check(**as_sent)
    return as_sent


def _require_json(value: Any, what: str) -> Any:
    """The value as JSON gives it back; a tuple is a list then. Raises: InvalidInputError."""
    try:
        return loads(dumps(value))
    except (TypeError, ValueError, EncodeError) as error:
        raise InvalidInputError(f"{what} must be what JSON can hold: {error}.") from None
