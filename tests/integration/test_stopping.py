"""A plain `celery worker` that is told to stop: it finishes for a while, then gives back; a second
signal hurries it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hive.broker.link.client import client_of
from tests.harness import WorkerProcess, wait_until
from tests.integration import jobs
from tests.integration.channel_steps import Steps
from tests.integration.cluster import Cluster
from tests.nodes import BACKGROUND
from tests.proxy import Proxy


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("stopping"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def steps(cluster: Cluster) -> Steps:
    client_of(cluster.app).redis.flushall()
    return Steps(client_of(cluster.app))


def busy(
    cluster: Cluster, directory: Path, *, grace: float, pool: str = "prefork"
) -> tuple[WorkerProcess, Any, Path]:
    """A worker, the task that it runs, and the file that lets that end."""
    name = f"worker{len(cluster.spores)}"  # each with a log of its own
    worker = cluster.spawn(
        name, concurrency=1, env={"HIVE_DRAIN_TIMEOUT": str(grace)}, options=("-P", pool)
    )
    cluster.wait_online(name)
    begun, go = directory / "begun", directory / "go"
    result = jobs.wait_for.apply_async(kwargs={"begun": str(begun), "go": str(go)})
    wait_until(begun.exists)
    return worker, result, go


def given_back(steps: Steps) -> list[int]:
    """The deaths of what waits in the queue; nothing may be anywhere else."""
    waiting = steps.waiting(BACKGROUND)
    assert steps.hash("entries").keys() == set(waiting)
    return [steps.entry(publish_id).deaths for publish_id in waiting]


def test_it_finishes_what_runs_and_takes_no_more(
    cluster: Cluster, steps: Steps, tmp_path: Path
) -> None:
    worker, result, go = busy(cluster, tmp_path, grace=20)
    waiting = jobs.add_numbers.apply_async((1, 2))
    worker.process.terminate()
    wait_until(lambda: "worker_finishing" in worker.output())
    go.touch()
    assert worker.process.wait(60) == 0
    assert result.get(timeout=60) == "went on"
    assert (waiting.status, given_back(steps)) == ("PENDING", [0])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_it_gives_back_uncounted_what_takes_longer(
    cluster: Cluster, steps: Steps, tmp_path: Path, pool: str
) -> None:
    worker, _, _ = busy(cluster, tmp_path, grace=0.3, pool=pool)
    worker.process.terminate()
    worker.process.wait(60)
    assert "its grace period is over" in worker.output()
    assert given_back(steps) == [0]


def test_celerys_cold_shutdown_gives_back_uncounted(
    cluster: Cluster, steps: Steps, tmp_path: Path
) -> None:
    worker, _, _ = busy(cluster, tmp_path, grace=60)
    worker.process.send_signal(signal.SIGQUIT)
    worker.process.wait(60)
    assert given_back(steps) == [0]


def test_a_second_signal_ends_it_at_once(cluster: Cluster, steps: Steps, tmp_path: Path) -> None:
    worker, _, _ = busy(cluster, tmp_path, grace=60)
    worker.process.terminate()
    wait_until(lambda: "worker_finishing" in worker.output())
    worker.process.terminate()
    worker.process.wait(50)
    assert given_back(steps) == [0]


@pytest.mark.slow
def test_it_ends_although_its_event_loop_waits_for_a_broker_that_is_cut_off(
    cluster: Cluster, steps: Steps, tmp_path: Path
) -> None:
    """Celery's event loop tries without end to tell of its heartbeat, and never looks at a stop."""
    link = Proxy(cluster.server.port)
    try:
        worker = cluster.spawn(
            "cut",
            concurrency=1,
            env={"HIVE_DRAIN_TIMEOUT": "1", "REDIS_PORT": str(link.port)},
        )
        cluster.wait_online("cut")
        pool = psutil.Process(worker.pid).children()
        link.down()
        wait_until(lambda: worker.output().count("heartbeat_missed") > 4, what="it is cut off")
        worker.process.terminate()
        worker.process.wait(30)
        wait_until(lambda: not any(process.is_running() for process in pool))
    finally:
        link.close()
