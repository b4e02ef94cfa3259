"""The end of a job, whoever ends it.

That may be its last task, its caller, or a reader that finds nobody else there.
"""

from __future__ import annotations

from typing import Any

from hive.broker.link.client import BrokerClient
from hive.jobs.state import steps
from hive.jobs.state.outcomes import error_text, to_json


def conclude(client: BrokerClient, job_id: str, value: Any, error: str = "") -> None:
    """End a job with its reduced value; only the first such call counts.

    A value that JSON cannot hold becomes an error.
    """
    try:
        written = to_json(value)
    except Exception as fault:  # noqa: BLE001 a value's own __json__ may raise anything
        written = "null"
        kind, why = type(value).__name__, error_text(fault)
        error = f"the reduced value, of type {kind}, cannot be written as JSON ({why})"
    steps.run(client, steps.FINISH, job_id, written, error)
