"""`hive.pull`: the task that leases items of a job, runs them and commits their outcomes, until
nothing is left to lease.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from celery import Celery, Task, shared_task

from hive.broker.channel.header import Header
from hive.broker.link.client import client_of
from hive.broker.link.outage import passes
from hive.broker.link.priorities import list_index, queue_lists
from hive.broker.results.on_broker import ON_BROKER
from hive.errors import UnknownJobError
from hive.jobs.input.launch import PULL
from hive.jobs.state import steps
from hive.jobs.state.outcomes import from_json
from hive.jobs.state.plan import TURN, Plan, read_plan, stored_plan
from hive.jobs.work.again import Again
from hive.jobs.work.at_once import StrandLimit, Strands
from hive.jobs.work.calls import SkillCalls
from hive.jobs.work.keeper import Keeper
from hive.jobs.work.lease_size import lease_length
from hive.jobs.work.leases import Commit, Lease, PutOff, commit_of, put_off
from hive.jobs.work.patience import patiently
from hive.jobs.work.time_limit import TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")
_WAIT = 0.02
_LINGER = 0.3
_AGAIN = {"": "recover", "begin": "begin again", "help": "help again", "helped": "help again"}
"""How step.lua is told that the reply to such a step was lost."""


@shared_task(
    name=PULL,
    bind=True,
    max_retries=None,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=False,
    **ON_BROKER,
)
def pull(self: Task[..., None], job_id: str) -> None:
    """Lease, run and commit items of a job.

    It returns nothing, so that two copies of one puller (killed between a retry and its
    acknowledgement) are one member of their chord.
    """
    puller = Puller(self.app, self.request, job_id)
    if puller.run():
        raise self.retry(countdown=puller.pause)


def message_id(task: Task[..., Any]) -> str:
    """The publish id of the message for which a task runs.

    A retry has another, under the same task id.
    """
    return _message_id(task.request)


def _message_id(request: Any) -> str:
    header = Header.of_request(request)
    return str((header.publish_id if header is not None else "") or request.id)


class Puller:
    """One run of `hive.pull`: at most a second, or one item."""

    _commits = ""  # the mode of a step that commits

    def __init__(self, app: Celery, request: Any, job_id: str) -> None:
        """request: of the message for which it works."""
        delivery = request.delivery_info or {}
        header = Header.of_request(request) or Header({})
        self.header = header
        self.app = app
        self.client = client_of(app)
        self.job_id = job_id
        self.owner = _message_id(request)
        self.node = str(header.node or request.hostname)
        self.redelivered = bool(header.deaths or delivery.get("redelivered"))
        self.urgent, self.others = self._queues(
            str(delivery.get("routing_key") or ""), delivery.get("priority")
        )
        self.attempts_allowed = self.client.settings.hive_max_retries + 1
        self.ends = time.monotonic() + TURN
        self.pause = 0.0
        """Seconds after which it is sent again."""
        self._run_id = uuid.uuid4().hex[:12]
        self._calls = 0

    def _queues(self, queue: str, priority: int | None) -> tuple[list[str], list[str]]:
        """The lists that are more urgent than the puller's own, and all others that its node
        serves.
        """
        settings = self.client.settings
        high, background = settings.hive_high_priority_queue, settings.hive_background_queue
        own = queue_lists(queue)[: list_index(priority)] if queue == high else queue_lists(high)
        if queue == background:
            own += queue_lists(background)[: list_index(priority)]
        every = dict.fromkeys((*queue_lists(high), *queue_lists(background), *queue_lists(queue)))
        prefix = self.client.prefix
        return [prefix + name for name in own], [prefix + name for name in every if name not in own]

    def run(self) -> bool:
        """Work. Returns: whether the puller has to be sent again."""
        # A redelivered puller only takes back what its earlier run held, and is sent again as a new
        # message. So an item that kills its process uses up its own attempts, and not the
        # deliveries of the puller.
        reply = self._step("begin", go=not self.redelivered)
        if reply[0] in (b"wait", b"linger"):
            reply = self.wait_for_items(reply)
        if reply[0] != b"run":
            return bool(reply[0] == b"yield")
        try:
            plan = (
                read_plan(self.job_id, reply[11])
                if reply[11]
                else patiently(lambda: stored_plan(self.client, self.job_id), self.job_id)
            )
        except UnknownJobError as error:
            log.error("unreadable_job", job_id=self.job_id, node=self.node, reason=error.message)
            return self._decline(reply, f"{self.node}: {error.message}")
        if plan is None:
            return False
        name = plan.call.name
        if name not in self.app.tasks:
            log.error("unknown_task_in_job", job_id=self.job_id, task=name, node=self.node)
            return self._decline(
                reply,
                f"{self.node} does not know the task {name!r}; "
                "start its worker with the module that defines it",
            )
        if plan.concurrency > 1:
            return self._pull_at_once(plan, reply)
        with TimeLimit(plan.item_limit) as limit:
            return Pulling(self, plan, self._calls_of(plan, limit), limit).run(reply)

    def _calls_of(self, plan: Plan, limit: TimeLimit) -> SkillCalls:
        return SkillCalls(self.app, plan.call, self.job_id, self.node, limit, header=self.header)

    def _pull_at_once(self, plan: Plan, reply: list[Any]) -> bool:
        """Work in strands, several items at a time. Returns: as `run`."""
        self.ends += plan.turn - TURN
        keeper = Keeper(self.client, self.job_id, plan, self.node)
        pauses: list[float] = []

        def pulls(limit: StrandLimit, reply: list[Any] | None) -> bool:
            strand = Strand(self, strands, limit)
            calls = self._calls_of(plan, limit)
            again = Pulling(strand, plan, calls, limit, keeper).pull(strand.first(reply))
            if again:
                pauses.append(strand.pause)
            return again

        strands = Strands(plan.concurrency, plan.item_limit, pulls)
        keeper.start()
        try:
            again = strands.run(reply)
            self.pause = min(pauses, default=0.0)
            return again
        finally:
            keeper.finish()

    def _decline(self, reply: list[Any], excuse: str) -> bool:
        """This node cannot do it: leave the items to nodes that can."""
        patiently(
            lambda: steps.run(self.client, steps.NOTE, self.job_id, "excuse", excuse), self.job_id
        )
        self.commit(reply[1], Commit(int(reply[4]), 0, "", [0, 0, 0, 0], 0, ""), 1, b"", go=False)
        return False

    def commit(
        self, lease: bytes, commit: Commit, want: int, block: bytes, *, go: bool
    ) -> list[Any]:
        """Commit a lease and take the next, in one round trip; the reply is step.lua's."""
        return self._step(self._commits, lease, commit, want=want, block=block, go=go)

    def _step(
        self,
        mode: str,
        lease: bytes = b"",
        commit: Commit | None = None,
        *,
        want: int = 1,
        block: bytes = b"",
        go: bool = True,
    ) -> list[Any]:
        done = commit.arguments() if commit else (0, 0, "", 0, 0, 0, 0, 0, "")
        wanted = (int(go), want, block, self.attempts_allowed, len(self.urgent), lease)
        queues = (*self.urgent, *self.others)

        def step() -> list[Any]:
            self._calls += 1
            fixed = (self.owner, self.node, mode, *wanted, *done, self._run_id, self._calls)
            return self._ask(fixed, queues)

        def waits() -> None:
            nonlocal mode
            # The step may have been done and its reply lost: then the commit is refused now, and
            # the lease that came with the lost reply is given back. Nobody has died of that. (A
            # redelivered puller took no lease; what it finds is of its run that did die.)
            if not (mode and self.redelivered):
                mode = _AGAIN.get(mode, mode)

        reply = self._in_spite_of_outages(step, mode, waits)
        if reply[0] == b"later":
            self.pause = int(reply[1]) / 1000
            return [b"yield"]
        return reply

    def _ask(self, arguments: tuple[Any, ...], queues: tuple[str, ...]) -> list[Any]:
        reply: list[Any] = steps.run(self.client, steps.STEP, self.job_id, *arguments, keys=queues)
        return reply

    def put_off(self, step: PutOff) -> int:
        """Let an item of a lease wait for its retry, and commit what is done before it.

        Returns: the first item that is still under the lease; below 0 when there is none.
        """
        run = partial(steps.run, self.client, steps.PUT_OFF, self.job_id, *step.arguments())
        return int(self._in_spite_of_outages(run, "", lambda: None))

    def _in_spite_of_outages(
        self, step: Callable[[], T], mode: str, waits: Callable[[], None]
    ) -> T:
        return patiently(step, self.job_id, waits=waits)

    def wait_for_items(self, reply: list[Any]) -> list[Any]:
        """Wait for what others push or give back, unless another task waits for this slot.

        Returns: a reply that asks for no more waiting.
        """
        lingers_until = time.monotonic() + _LINGER
        while reply[0] in (b"wait", b"linger"):
            lingers = reply[0] == b"linger"
            stay = not reply[1] and time.monotonic() < (lingers_until if lingers else self.ends)
            # A puller that will not stay waits once, too: otherwise pullers that wait for a slow
            # input would hand the slot around among them.
            if stay or not lingers:
                self._block_on_wake()
            again = self._step("")
            reply = (
                again if stay or again[0] not in (b"wait", b"linger") else self._step("", go=False)
            )
        return reply

    def _block_on_wake(self) -> None:
        try:
            self.client.redis.blpop(
                [steps.job_key(self.client, self.job_id, "wake")], timeout=_WAIT
            )
        except Exception as error:
            if not passes(error):
                raise
            time.sleep(_WAIT)


class Strand(Puller):
    """One strand of a puller's run: it leases under the puller's name."""

    def __init__(self, puller: Puller, strands: Strands, limit: StrandLimit) -> None:
        vars(self).update(vars(puller))
        self._run_id = uuid.uuid4().hex[:12]
        self._strands = strands
        self._limit = limit

    def first(self, reply: list[Any] | None) -> list[Any]:
        """The reply to begin with: what another has got, or that of a step of its own."""
        if reply is not None:
            self._strands.leases[self._run_id] = int(reply[1])
            self._strands.found()
            return reply
        reply = self._step("")
        return self.wait_for_items(reply) if reply[0] in (b"wait", b"linger") else reply

    def wait_for_items(self, reply: list[Any]) -> list[Any]:
        return super().wait_for_items(reply) if self._strands.is_last(self._limit) else [b"end"]

    def _step(self, *args: Any, **options: Any) -> list[Any]:
        reply = super()._step(*args, **options)
        if reply[0] == b"run":
            self._strands.found()
        return reply

    def _ask(self, arguments: tuple[Any, ...], queues: tuple[str, ...]) -> list[Any]:
        """One strand at a time: else one that lost a reply gave back what another is just given."""
        leases = self._strands.leases
        with self._strands.asking:
            others = " ".join(str(lease) for run, lease in leases.items() if run != self._run_id)
            reply = super()._ask((*arguments, others), queues)
            if reply[0] == b"run":
                leases[self._run_id] = int(reply[1])
            elif reply[0] != b"moved":
                leases.pop(self._run_id, None)
            return reply


class Pulling:
    """The leases of one run, one after the other."""

    def __init__(
        self,
        puller: Puller,
        plan: Plan,
        calls: SkillCalls,
        limit: TimeLimit,
        keeper: Keeper | None = None,
    ) -> None:
        """keeper: one that looks after other leases, too; for `pull`."""
        self.puller = puller
        self.plan = plan
        self.calls = calls
        self.limit = limit
        self.keeper = keeper or Keeper(puller.client, puller.job_id, plan, puller.node)
        self.block = b""
        self.items: list[Any] = []
        self.base = 0

    def run(self, reply: list[Any]) -> bool:
        """Work from the first lease on. Returns: whether the puller has to be sent again."""
        self.keeper.start()
        try:
            return self.pull(reply)
        finally:
            self.keeper.finish()

    def pull(self, reply: list[Any]) -> bool:
        """The same, where the keeper is another's to start and to finish."""
        with self.calls:
            while reply[0] == b"run":
                reply = self._one_lease(reply)
                if reply[0] in (b"wait", b"linger"):
                    reply = self.puller.wait_for_items(reply)
            return bool(reply[0] == b"yield")

    def _one_lease(self, reply: list[Any]) -> list[Any]:
        lease = self._open(reply)
        self.keeper.look_after(lease, self.limit)
        try:
            self.calls.work(lease, whole=bool(self.plan.chunk))
        finally:
            lease.close()
            self.limit.leftovers.put_back()
        return self._commit(lease, job_us=int(reply[8]), job_done=int(reply[9]))

    def _open(self, reply: list[Any]) -> Lease:
        _, lease_id, block, base, first, length, attempt, body, _, _, ms_left, _, again = reply
        if body:
            self.block, self.base, self.items = block, base, from_json(body)
        if ms_left >= 0:
            self.limit.set_deadline(ms_left / 1000)
        offset = first - self.base
        items = self.items[offset : offset + length]
        return Lease(lease_id, first, attempt, items, Again.read(again))

    def _commit(self, lease: Lease, *, job_us: int, job_done: int) -> list[Any]:
        done, start = len(lease.results.micros), lease.committed
        node, reduce = self.puller.node, self.plan.reduce
        while True:
            offset = lease.next_retrial(start, done)
            if offset is not None:
                held = self.puller.put_off(put_off(lease, start, offset, node, reduce))
                start = done if held < 0 else held - lease.first
                continue
            commit = commit_of(lease, start, done, node, reduce)
            job_cost = job_us / job_done / 1e6 if job_done else 0.0
            want = lease_length(max(done, 1), lease.cost, job_cost, len(commit.entry))
            goes_on = not self.limit.over and time.monotonic() < self.puller.ends
            reply = self.puller.commit(lease.id, commit, want, self.block, go=goes_on)
            if reply[0] != b"moved":
                return reply
            # The keeper has committed up to there, although it did not get the reply.
            start = int(reply[1]) - lease.first
