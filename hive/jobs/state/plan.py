"""What a job is asked to do.

Its caller writes it; the pullers read it, and who opens the job later.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask
from hive.errors import UnknownJobError
from hive.jobs.state import steps
from hive.jobs.state.outcomes import from_json
from hive.jobs.state.reduce import BUILT_IN, FOLDED

MARGIN = 5.0
"""Seconds by which a puller's own soft limit lies above the limit of an item, and its hard limit
above the soft one.
"""


TURN = 1.0
"""Seconds after which a puller goes to the end of its queue, where its plan says nothing else."""


class Call(BaseModel):
    """A task by name, and what all its calls share.

    arguments: positional and named ones, which stand behind those of the single call, as the JSON
    list `[[…], {…}]` that `to_json` writes; "" for none. immutable: they are all it is called with.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    arguments: str = ""
    immutable: bool = False

    def stored(self) -> tuple[str, Call | None]:
        """How a plan has it: the task's name, and the call where it is more than that.

        Then the name is that of no task: to a node of a release that knows no calls the task is
        unknown, so that it leaves the job to others instead of dropping the arguments.
        """
        if not self.arguments:
            return self.name, None
        return f"{self.name} with the arguments of a signature, which takes a later Hive", self

    def with_own(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of one call, merged as a signature merges them.

        The shared ones are made anew, so that no call sees what another has done to them.
        """
        if not self.arguments:
            return args, kwargs
        shared_args, shared_kwargs = from_json(self.arguments)
        if self.immutable:
            return tuple(shared_args), shared_kwargs
        return (*args, *shared_args), {**shared_kwargs, **kwargs}


class Plan(BaseModel):
    """One job's unchanging facts, stored as JSON in its state.

    task, task_call: the skill's Celery task, as `Call.stored` has it. reduce: a built-in reduce's
    name, or "task" where `reduce_task` and `reduce_task_call` say which. item_limit: seconds that
    one item may run. reduce_limits: soft and hard, in seconds, of a reduce task. slots: how many
    pullers are sent. chunk: items of a lease, 0 for sized as they run. queue, priority: where the
    pullers wait. total: number of items, None where they come while the job runs. concurrency:
    items at a time in one slot.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    task_call: Call | None = None
    reduce: str | None = None
    reduce_task: str | None = None
    reduce_task_call: Call | None = None
    item_limit: float = Field(gt=0)
    reduce_limits: tuple[PositiveFloat, PositiveFloat] | None = None
    slots: int = Field(ge=1)
    chunk: int = Field(0, ge=0)
    queue: str
    priority: int | None = Field(None, ge=0, le=10)
    requirements: dict[str, Any] | None = None
    total: int | None = Field(None, ge=0)
    concurrency: int = Field(1, ge=1)

    @field_validator("reduce")
    @classmethod
    def _is_known(cls, reduce: str | None) -> str | None:
        if reduce not in (None, "task", *BUILT_IN):
            raise ValueError(f"there is no reduce {reduce!r}")
        return reduce

    @property
    def call(self) -> Call:
        """What is called for each item."""
        return self.task_call or Call(name=self.task)

    @property
    def reduce_call(self) -> Call:
        """What is called for the values, where `reduce` is "task"."""
        return self.reduce_task_call or Call(name=self.reduce_task or "")

    @property
    def turn(self) -> float:
        """Seconds after which a puller goes to the end of its queue, so that others have theirs.

        Of items that run at a time all wait then for the longest, so that it is less often.
        """
        return TURN if self.concurrency == 1 else min(10.0, max(TURN, self.item_limit))

    @property
    def trims(self) -> bool:
        """Whether outcomes that the caller has read may be dropped.

        They may where the input can be endless and no reduce needs the values again.
        """
        return self.total is None and (
            self.reduce is None or self.reduce == "count" or self.reduce in FOLDED
        )


def time_to_live(app: Celery, item_limit: float, timeout: float | None) -> int:
    """Seconds for which a job is kept after its last step.

    It is Celery's result_expires, but never less than a step, and an outage with it, may take.
    """
    configured = app.conf.result_expires
    seconds = configured.total_seconds() if hasattr(configured, "total_seconds") else configured
    deadline = 0 if timeout is None else timeout
    return int(max(seconds or 86_400, 2 * item_limit + 600, deadline + 600))


def stored_plan(client: BrokerClient, job_id: str) -> Plan | None:
    """The plan of a job, or None when no such job is known (any more).

    Raises: UnknownJobError for one that this release cannot read.
    """
    key = steps.job_key(client, job_id, "state")
    raw: bytes | None = ask(client, client.redis.hget, key, "plan")
    return None if raw is None else read_plan(job_id, raw)


def read_plan(job_id: str, raw: bytes) -> Plan:
    """Raises: UnknownJobError where another release asks for what this one does not know."""
    try:
        return Plan.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UnknownJobError(
            f"This release of Hive cannot read what the job {job_id} is asked to do "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']}); use the release that made it."
        ) from None
