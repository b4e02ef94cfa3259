"""Tasks in two ways, placed by the Foreman's score or left in the shared queue, for benches that
compare the two.
"""

from __future__ import annotations

import os
import time

import hive

app = hive.app

_told = os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _tell(sent: float) -> None:
    """One line: the node, and the seconds since the task was sent."""
    os.write(_told, f"{os.environ.get('BENCH_NODE')} {time.time() - sent:.6f}\n".encode())


def _burn(seconds: float) -> None:
    """Use a core for that much CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@hive.skill("Wait, placed by score", ignore_result=True)
def wait_scored(seconds: float, sent: float) -> None:
    time.sleep(seconds)
    _tell(sent)


@hive.skill("Wait, from the shared queue", ignore_result=True, placement="shared")
def wait_shared(seconds: float, sent: float) -> None:
    time.sleep(seconds)
    _tell(sent)


@hive.skill("Use a core, placed by score", ignore_result=True)
def burn_scored(seconds: float, sent: float) -> None:
    _burn(seconds)
    _tell(sent)


@hive.skill("Use a core, from the shared queue", ignore_result=True, placement="shared")
def burn_shared(seconds: float, sent: float) -> None:
    _burn(seconds)
    _tell(sent)
