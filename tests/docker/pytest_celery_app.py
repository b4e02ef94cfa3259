"""The application of `pytest_celery_project.py`, which pytest-celery puts into its workers as
`app.py`.
"""

from __future__ import annotations

import time

from celery import Celery

import hive

app = Celery("app")
hive.install(app)


@app.task(name="double")
def double(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return 2 * number


@app.task(name="add_up")
def add_up(numbers: list[int]) -> int:
    return sum(numbers)
