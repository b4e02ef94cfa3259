"""One application in two ways, for benches that compare Hive with plain Celery at its lossless
settings; imported by their processes.
"""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bench_app")

if os.environ["BENCH_HIVE"] == "1":
    import hive

    hive.install(app)
else:
    url = f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0"
    app.conf.update(
        broker_url=url,
        result_backend=url,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_reject_on_worker_lost=True,
        result_extended=True,
        task_track_started=True,
        broker_connection_retry_on_startup=True,
        task_soft_time_limit=300,
        task_time_limit=330,
    )

_counter = (
    os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if "BENCH_FILE" in os.environ
    else -1
)


@app.task(ignore_result=True)
def noop() -> None:
    """Tell that it ran by one byte."""
    os.write(_counter, b".")


@app.task
def noop_with_result() -> None:
    os.write(_counter, b".")


@app.task
def square(x: int) -> int:
    return x * x
