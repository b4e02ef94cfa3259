"""Hive: Celery workers on a handful of machines as one compute cluster.

`install` makes any Celery application part of the hive; `app` is a ready one, and Celery's default
as soon as this is imported.
"""

import sys
from pathlib import PurePath

from hive.errors import SettingsError

try:
    from hive.agents.parallel_skill import ParallelSkill
    from hive.broker.channel.idempotency import idempotent
    from hive.broker.message_broker import MessageBroker
    from hive.celery import app, install
    from hive.foreman.foreman import Foreman
    from hive.jobs.answer.job import Job, JobResult, Progress, job
    from hive.jobs.mapping import map
    from hive.jobs.state.outcomes import Outcome
    from hive.skills import skill
except (SettingsError, KeyboardInterrupt) as error:
    # `hive …` and `python -m hive …` (its argv[0] is "-m" until the package is there) go on to
    # hive.cli.main, which says it in a line.
    if PurePath(sys.argv[0]).name != "hive" and not (
        sys.argv[0] == "-m" and "hive" in sys.orig_argv
    ):
        raise
    if isinstance(error, KeyboardInterrupt):
        sys.exit(130)

__all__ = [
    "Foreman",
    "Job",
    "JobResult",
    "MessageBroker",
    "Outcome",
    "ParallelSkill",
    "Progress",
    "app",
    "idempotent",
    "install",
    "job",
    "map",
    "skill",
]
