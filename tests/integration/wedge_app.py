"""An application whose workers' event loop can be made to hang."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.worker.control import control_command

import hive
from hive.settings import Settings

app = hive.install(Celery("wedge", set_as_current=False), Settings.load())


@control_command()
def wedge(state: Any) -> None:
    time.sleep(3_600)


@app.task
def pid() -> int:
    """Of the worker whose pool runs it."""
    return os.getppid()
