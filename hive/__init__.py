"""Hive: Celery workers on a handful of machines as one compute cluster.

`install` makes any Celery application part of the hive; `app` is a ready one, and Celery's default
as soon as this is imported. Every name below is imported at its first use, the ready application
made at its own: importing Hive costs milliseconds, and a wrong setting is told when it matters.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hive import default_app

if TYPE_CHECKING:
    from hive import celery as celery
    from hive import errors as errors
    from hive import logs as logs
    from hive import settings as settings
    from hive import skills as skills
    from hive import tasks as tasks
    from hive.agents.parallel_skill import ParallelSkill
    from hive.broker.channel.idempotency import idempotent
    from hive.broker.message_broker import MessageBroker
    from hive.celery import app, install
    from hive.foreman.foreman import Foreman
    from hive.jobs.answer.job import Job, JobResult, Progress, job
    from hive.jobs.mapping import map
    from hive.jobs.state.outcomes import Outcome
    from hive.skills import skill
    from hive.stack.manager import StackManager

__all__ = [
    "Foreman",
    "Job",
    "JobResult",
    "MessageBroker",
    "Outcome",
    "ParallelSkill",
    "Progress",
    "StackManager",
    "app",
    "idempotent",
    "install",
    "job",
    "map",
    "skill",
]

_HOMES = {
    "Foreman": "hive.foreman.foreman",
    "Job": "hive.jobs.answer.job",
    "JobResult": "hive.jobs.answer.job",
    "MessageBroker": "hive.broker.message_broker",
    "Outcome": "hive.jobs.state.outcomes",
    "ParallelSkill": "hive.agents.parallel_skill",
    "Progress": "hive.jobs.answer.job",
    "StackManager": "hive.stack.manager",
    "app": "hive.celery",
    "idempotent": "hive.broker.channel.idempotency",
    "install": "hive.celery",
    "job": "hive.jobs.answer.job",
    "map": "hive.jobs.mapping",
    "skill": "hive.skills",
}
"""Where each public name is at home."""

_MODULES = frozenset({"celery", "errors", "logs", "settings", "skills", "tasks"})
"""What `import hive` alone lets a program name, as `hive.errors.HiveError`."""


if not TYPE_CHECKING:  # a type checker takes a name that is not above for a mistake

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(f"hive.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


default_app.stand_in()
