"""The application of the containers' tests: what a user puts on top of Hive's image."""

from __future__ import annotations

import os
import subprocess
import time

from celery import Celery

import hive

app = Celery("shop")
hive.install(app)


@hive.skill("Double a number, slowly", intents=("double",))
def double(number: int) -> int:
    time.sleep(0.2)
    return 2 * number


@app.task
def wait(seconds: float) -> str:
    """Which container it was that waited."""
    time.sleep(seconds)
    return os.uname().nodename


@app.task
def leave_an_orphan() -> int:
    """Start a process whose parent ends before it does; its pid."""
    shell = "sleep 1 >/dev/null 2>&1 & echo $!"
    return int(subprocess.run(["sh", "-c", shell], capture_output=True, check=True).stdout)
