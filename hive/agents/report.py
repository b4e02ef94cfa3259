"""What ParallelSkill answers: JSON text that an agent can read without knowing Hive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel

from hive import json_text
from hive.broker.ledger.records import TaskStatus
from hive.jobs.state.outcomes import Outcome
from hive.json_text import sayable

Status = Literal["completed", "failed", "pending"]


class ItemReport(BaseModel):
    """One item.

    `result` is null unless it completed, `error` null unless it failed; `node` runs or ran it.
    """

    item_index: int
    status: Status
    result: Any = None
    error: str | None = None
    node: str | None = None

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> Self:
        if outcome.status == "ok":
            return cls(
                item_index=outcome.index,
                status="completed",
                result=outcome.value,
                node=outcome.node,
            )
        why = sayable(outcome.error or outcome.status)
        return cls(item_index=outcome.index, status="failed", error=why, node=outcome.node)

    @classmethod
    def of_task(cls, index: int, task: TaskStatus | None) -> Self:
        if task is None:
            return cls(
                item_index=index,
                status="failed",
                error="It was never sent, or its record has expired.",
            )
        status: Status = (
            "completed" if task.status == "completed" else "failed" if task.over else "pending"
        )
        return cls(
            item_index=index,
            status=status,
            result=task.result,
            error=task.error,
            node=task.assigned_node,
        )


class Summary(BaseModel):
    """Counts of items; `success_rate` is completed by total, 0..1."""

    total_tasks: int
    completed: int
    failed: int
    pending: int
    success_rate: float


class Report(BaseModel):
    """The whole answer; `error` is left out when there is none."""

    summary: Summary
    results: list[ItemReport]
    job_id: str | None = None
    error: str | None = None

    @classmethod
    def of(
        cls, results: Sequence[ItemReport], job_id: str | None = None, error: str | None = None
    ) -> Self:
        counts = {
            status: sum(result.status == status for result in results)
            for status in ("completed", "failed", "pending")
        }
        rate = round(counts["completed"] / len(results), 4) if results else 0.0
        summary = Summary(total_tasks=len(results), success_rate=rate, **counts)
        said = None if error is None else sayable(error)
        return cls(summary=summary, results=list(results), job_id=job_id, error=said)

    def to_json(self) -> str:
        """The answer as JSON; a value that JSON cannot hold is shown as text, NaN as null."""
        return json_text.write(self.model_dump(exclude=None if self.error else {"error"}))
