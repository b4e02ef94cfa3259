"""An application with the skills of `jobs`, for tests that start their hive by `hive.testing`."""

from __future__ import annotations

from celery import Celery

JOBS = "tests.integration.jobs_app:app"

app = Celery("jobs", set_as_current=False, include=["tests.integration.jobs"])
