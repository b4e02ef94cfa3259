"""Drain: how fast two worker processes empty a queue of no-op tasks, against plain Celery with late
acknowledgement and prefetch 1.

Each round starts one plain and one Hive worker on a fresh private server, in turn, with the same
result settings. A task tells that it ran by one byte appended to a file. The figure is the median
of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench._verdict import verdict
from tests.harness import BrokerServer, WorkerProcess, wait_until

TASKS = 10_000
ROUNDS = 5

SEND = """
import sys
from bench import _plain_or_hive as bench_app
task = getattr(bench_app, sys.argv[2])
with bench_app.app.producer_or_acquire() as producer:
    for _ in range(int(sys.argv[1])):
        task.apply_async(producer=producer)
"""


def drain(directory: Path, *, hive: bool, results: bool, tasks: int) -> float:
    """Tasks a second of one worker with two processes."""
    directory.mkdir()
    counter = directory / "ran"
    counter.touch()
    server = BrokerServer(directory / "broker", durable=False).start()
    env = {
        **server.environment,
        "BENCH_FILE": str(counter),
        "BENCH_HIVE": str(int(hive)),
        "PYTHONPATH": str(Path.cwd()),
    }
    worker = None
    try:
        task = "noop_with_result" if results else "noop"
        subprocess.run(
            [sys.executable, "-c", SEND, str(tasks), task],
            check=True,
            env={**os.environ, **env},
            timeout=120,
        )
        options = ("-l", "error", "--without-gossip", "--without-mingle")
        worker = WorkerProcess.celery(
            directory, "drain", app="bench._plain_or_hive", env=env, options=options
        )
        size = counter.stat
        # The first tenth is start-up.
        wait_until(lambda: size().st_size >= tasks // 10, 60, "a tenth has run")
        ran, began = size().st_size, time.perf_counter()
        wait_until(lambda: size().st_size >= tasks, 120, "all have run")
        return (tasks - ran) / (time.perf_counter() - began)
    finally:
        if worker is not None:
            worker.kill()
        server.kill()


def main() -> bool:
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        for results, least in ((False, 1.8), (True, 1.6)):
            ratios = []
            for number in range(ROUNDS):
                plain, ours = (
                    drain(
                        Path(temporary) / f"{int(results)}-{number}-{int(hive)}",
                        hive=hive,
                        results=results,
                        tasks=TASKS,
                    )
                    for hive in (False, True)
                )
                ratios.append(ours / plain)
                print(
                    f"  plain {plain:.0f}/s, hive {ours:.0f}/s, "
                    f"{'with results' if results else 'results ignored'}",
                    flush=True,
                )
            name = f"drain {'with results' if results else 'results ignored'} against plain Celery"
            good &= verdict(name, statistics.median(ratios), at_least=least)
    return good


if __name__ == "__main__":
    sys.exit(not main())
