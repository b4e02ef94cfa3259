"""The application of the soak's spores, `-A tests.chaos.soak_app`:
its results live for a minute.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, shared_task

import hive

KEPT = 60
"""Seconds that a result is kept."""


@shared_task(ignore_result=True)
def nothing() -> None:
    """A task without a result."""


@shared_task
def echo(value: int) -> int:
    return value


@shared_task
def fails() -> None:
    raise ValueError("as it should")


@shared_task(bind=True, max_retries=3)
def tries_again(self: Any) -> int:
    if self.request.retries < 1:
        raise self.retry(countdown=0.5)
    return int(self.request.retries)


@shared_task
def total(values: list[int]) -> int:
    return sum(values)


def with_short_results(app: Celery) -> Celery:
    app.conf.result_expires = KEPT
    return app


app = hive.install(with_short_results(Celery("soak")))
