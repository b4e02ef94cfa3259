"""A node that comes back after it was declared dead: what was taken from it leaves no trace there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import states

from hive.broker.client import client_of
from hive.foreman.watchdog import Watchdog
from tests.harness import wait_until
from tests.integration.cluster import Cluster
from tests.integration.jobs import wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path, hive_heartbeat_interval=0.3)
    yield started
    started.close()


def restore_dead(watchdog: Watchdog) -> bool:
    watchdog.tick()
    return watchdog.restore_dead() > 0


def test_a_frozen_nodes_task_runs_elsewhere_and_its_late_result_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    frozen = cluster.spawn("frozen", concurrency=1)
    cluster.wait_online("frozen")
    begun, go = tmp_path / "begun", tmp_path / "go"
    result = cluster.app.send_task(wait_for.name, (str(begun), str(go)))
    wait_until(begun.exists, what="the task has begun")
    frozen.kill(signal.SIGSTOP)
    cluster.spawn("other", concurrency=1)
    cluster.wait_online("other")
    client = client_of(cluster.app)
    watchdog = Watchdog(client, cluster.app)
    wait_until(lambda: restore_dead(watchdog), what="the frozen node is declared dead")
    wait_until(lambda: begun.read_text() == "xx", what="the task has begun elsewhere")
    go.touch()
    frozen.kill(signal.SIGCONT)  # its run ends now, too
    assert result.get(timeout=60) == "went on"
    wait_until(lambda: cluster.app.backend.get_task_meta(result.id)["status"] == states.SUCCESS)
    wait_until(lambda: client.redis.hlen(client.key("entries")) == 0, what="nothing is left over")
    assert cluster.app.backend.get_task_meta(result.id)["hive"]["node"] == "other@h"
    assert begun.read_text() == "xx"
    again = cluster.app.send_task(wait_for.name, (str(begun), str(go)), requirements={"node": "frozen@h"})
    assert again.get(timeout=60) == "went on", "the node that came back works on"
