"""A task with requirements waits for a node that meets them and that consumes the task's queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from tests.harness import wait_until
from tests.integration.cluster import Cluster
from tests.integration.jobs import plain

ZONE = {"HIVE_NODE_LABELS": "zone=x"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path, hive_heartbeat_interval=0.3)
    yield started
    started.close()


def test_a_node_that_does_not_consume_the_queue_leaves_the_task(cluster: Cluster) -> None:
    cluster.spawn("other", env=ZONE, options=("-Q", "venom:tasks:high"))
    cluster.wait_online("other")
    client = client_of(cluster.app)
    task_id = cluster.app.send_task(plain.name, requirements={"labels": {"zone": "x"}}).id

    def beats() -> int:
        NodeTable(client).read()
        return int(client.redis.get(client.key("nodes", "version")) or 0)

    after = beats() + 4
    wait_until(lambda: beats() >= after, what="the node has learnt of the requirements")
    assert client.redis.hget(client.key("ids"), task_id) is not None, "it still waits"
    cluster.spawn("mine", env=ZONE)
    cluster.wait_online("mine")
    wait_until(
        lambda: client.redis.hget(client.key("ids"), task_id) is None, what="the task has run"
    )
    assert client.redis.hgetall(client.key("counters"))[b"completed"] == b"1"
