"""A task with requirements waits for a node that meets them and that consumes the task's queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hive.testing
from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from hive.testing import Cluster
from tests.harness import wait_until
from tests.integration.jobs import plain
from tests.integration.jobs_app import JOBS

ZONE = {"HIVE_NODE_LABELS": "zone=x"}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, spores=0, hive_heartbeat_interval=0.3) as started:
        yield started


def test_a_node_that_does_not_consume_the_queue_leaves_the_task(cluster: Cluster) -> None:
    cluster.start("other", environment=ZONE, options=("-Q", "venom:tasks:high"))
    client = client_of(cluster.app)
    task_id = cluster.app.send_task(plain.name, requirements={"labels": {"zone": "x"}}).id

    def beats() -> int:
        NodeTable(client).read()
        return int(client.redis.get(client.key("nodes", "version")) or 0)

    after = beats() + 4
    wait_until(lambda: beats() >= after, what="the node has learnt of the requirements")
    assert client.redis.hget(client.key("ids"), task_id) is not None, "it still waits"
    cluster.start("mine", environment=ZONE)
    wait_until(
        lambda: client.redis.hget(client.key("ids"), task_id) is None, what="the task has run"
    )
    assert client.redis.hgetall(client.key("counters"))[b"completed"] == b"1"
