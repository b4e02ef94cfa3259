"""The same tiny skill in Hive, in plain Celery as it comes, and in huey; imported by the processes
of bench.map.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from huey import RedisHuey

_port = int(os.environ["REDIS_PORT"])
app = Celery("map_app")
if os.environ["BENCH_WITH"] == "hive":
    import hive

    hive.install(app)
else:
    url = f"redis://127.0.0.1:{_port}/0"
    app.conf.update(broker_url=url, result_backend=url, broker_connection_retry_on_startup=True)

huey = RedisHuey("map_app", host="127.0.0.1", port=_port)


@app.task
def square(x: int) -> int:
    return x * x


@app.task
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task
def total(chunks: list[list[int]]) -> int:
    return sum(map(sum, chunks))


@huey.task()  # type: ignore[untyped-decorator]
def huey_square(x: int) -> Any:
    return x * x
