"""The application of these tests, as /srv/hive/work.py on the machine: each run of a task leaves
its lines in a file of HIVE_HOME, of which the tests read how often it ran.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from celery.utils.log import get_task_logger

import hive

app = Celery("work")
hive.install(app)
log = get_task_logger(__name__)


@contextmanager
def run(label: str) -> Iterator[int]:
    """The run's number, from 1."""
    folder = Path(os.environ["HIVE_HOME"], "runs")
    folder.mkdir(exist_ok=True)
    with (folder / label).open("a+b", buffering=0) as lines:
        lines.write(b"start\n")
        lines.seek(0)
        yield lines.read().count(b"start")
        lines.write(b"end\n")


@app.task(bind=True)
def hold(self, label: str, seconds: float) -> str:
    """Take a while. Returns: the node."""
    with run(label):
        time.sleep(seconds)
    return str(self.request.hostname)


@app.task
def eat(label: str, megabytes: int) -> int:
    """Take that much memory, the first time. Returns: the run's number."""
    with run(label) as number:
        eaten = bytearray(b"x" * (megabytes << 20)) if number == 1 else b""
        return number + 0 * len(eaten)


@app.task
def opened(path: str) -> str:
    """The error, by its short name; "" where there is none."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


@app.task
def speak(word: str) -> None:
    log.debug("%s at level debug", word)
    log.info("%s at level info", word)
    log.warning("%s at level warning\nin two lines: %s", word, word)
    log.error("%s at level error", word)
