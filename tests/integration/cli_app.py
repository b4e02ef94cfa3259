"""An application of the tests' own, as `--app tests.integration.cli_app:app` names it."""

from __future__ import annotations

from celery import Celery

import hive
import tests.integration.cli_skills  # noqa: F401 - registers the skills

app = hive.install(Celery("cli-tests"))
not_an_app = "text"
