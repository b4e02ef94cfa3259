"""Pools whose processes die, come and go: slots are back soon, and all of them are used."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.broker.link.client import client_of
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, hive_max_retries=10)
    try:
        yield cluster
    finally:
        cluster.close()


def pool_processes(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_pool_processs_task_runs_again_soon(cluster: Cluster, tmp_path: Path) -> None:
    worker = cluster.spawn("a", concurrency=1)
    cluster.wait_online("a")
    begun, go = tmp_path / "begun", tmp_path / "go"
    result = jobs.wait_for.delay(begun=str(begun), go=str(go))
    wait_until(begun.exists)
    for runs in (2, 3, 4):
        for child in pool_processes(worker.pid):
            os.kill(child, signal.SIGKILL)
        wait_until(lambda runs=runs: begun.read_text() == "x" * runs, 3, f"run {runs} has begun")
    go.touch()
    assert result.get(timeout=60) == "went on"
    assert client_of(cluster.app).redis.hlen("venom:dead") == 0


def test_a_pool_that_scales_itself_is_given_as_much_as_it_may_grow_to(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.spawn("a", options=("--autoscale", "3,1"))
    assert cluster.wait_online("a")["a@h"].facts.slots == 3
    begun, go = tmp_path / "begun", tmp_path / "go"
    results = [jobs.wait_for.delay(begun=str(begun), go=str(go)) for _ in range(3)]
    wait_until(lambda: begun.exists() and begun.read_text() == "xxx", what="all three run at once")
    go.touch()
    assert [result.get(timeout=60) for result in results] == ["went on"] * 3
