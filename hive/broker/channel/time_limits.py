"""The soft and the hard time limit of a task.

A limit that a task declares must not be contradicted by the default of the other one.
"""

from __future__ import annotations

from typing import Any

from hive.broker.link.moments import checked_limit

Limit = float | None

# A year: what a task's own 0 becomes, since to Celery's pool a 0 means the default of all tasks.
LIFTED = 31_536_000.0


def hard_limit(soft: float) -> float:
    """The hard limit for a soft one: 1 to 30 seconds later, so that the task can tidy up."""
    return soft + max(1.0, min(30.0, soft / 10))


def fitting(hard: Limit, soft: Limit, conf: Any) -> tuple[Limit, Limit]:
    """The two limits in seconds, None where the configuration's holds.

    hard, soft: as declared, or already filled from `conf`, the application's configuration; 0 lifts
        a limit that `conf` sets.

    Celery refuses to send a task whose soft limit is above its hard one, and its pool then looks at
    the hard one only when the soft one has passed. So the one that was declared moves the other.

    Raises: InvalidInputError for what is no number of seconds.
    """
    hard, soft = checked_limit("time_limit", hard), checked_limit("soft_time_limit", soft)
    default_hard, default_soft = conf.task_time_limit, conf.task_soft_time_limit
    hard = LIFTED if hard == 0 and default_hard else hard
    soft = LIFTED if soft == 0 and default_soft else soft
    ends_at, warns_at = hard or default_hard, soft or default_soft
    if not ends_at or not warns_at or warns_at <= ends_at:
        return hard, soft
    if warns_at == default_soft:
        return hard, ends_at
    if ends_at == default_hard:
        return hard_limit(warns_at), soft
    return hard, soft
