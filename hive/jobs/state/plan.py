"""What a job is asked to do.

Its caller writes it; the pullers read it, and who opens the job later.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask
from hive.errors import UnknownJobError
from hive.jobs.state import steps
from hive.jobs.state.reduce import BUILT_IN, FOLDED

MARGIN = 5.0
"""Seconds by which a puller's own soft limit lies above the limit of an item, and its hard limit
above the soft one.
"""


class Plan(BaseModel):
    """One job's unchanging facts, stored as JSON in its state.

    task: the skill's Celery task by name. reduce: a built-in reduce's name, or "task" where
    `reduce_task` names one. item_limit: seconds that one item may run. slots: how many pullers are
    sent. chunk: items of a lease, 0 for sized as they run. queue, priority: where the pullers wait.
    total: number of items, None where they come while the job runs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    reduce: str | None = None
    reduce_task: str | None = None
    item_limit: float = Field(gt=0)
    slots: int = Field(ge=1)
    chunk: int = Field(0, ge=0)
    queue: str
    priority: int | None = Field(None, ge=0, le=10)
    requirements: dict[str, Any] | None = None
    total: int | None = Field(None, ge=0)

    @field_validator("reduce")
    @classmethod
    def _is_known(cls, reduce: str | None) -> str | None:
        if reduce not in (None, "task", *BUILT_IN):
            raise ValueError(f"there is no reduce {reduce!r}")
        return reduce

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
