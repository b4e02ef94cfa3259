"""The application of spores and feeder in chaos: `-A tests.chaos.app`."""

from celery import Celery

import hive

app = hive.install(Celery("chaos", include=["tests.chaos.tasks"]))
