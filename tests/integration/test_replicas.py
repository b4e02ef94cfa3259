"""Tasks that count as accepted only when a replica of the broker has them,
and the fail-over to it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.broker.link.client import client_of
from hive.errors import BrokerUnreachableError
from tests.harness import BrokerServer, wait_until
from tests.integration.cluster import Cluster
from tests.integration.jobs import wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(
        tmp_path, hive_wait_replicas=1, hive_publish_timeout=60, hive_heartbeat_interval=0.3
    )
    yield cluster
    cluster.close()


@pytest.fixture
def replica(cluster: Cluster, tmp_path: Path) -> Iterator[BrokerServer]:
    with cluster.server.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    server = BrokerServer(
        tmp_path / "replica", options=("--replicaof", "127.0.0.1", str(cluster.server.port))
    ).start()
    with server.client() as client:
        wait_until(
            lambda: client.info("replication")["master_link_status"] == "up",
            what="the replica is in step",
        )
    yield server
    server.kill()


def promote(replica: BrokerServer, port: int) -> None:
    """What a person does after the broker's machine is gone: the replica takes its place, and its
    address.
    """
    with replica.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("port", port)


def test_what_was_accepted_survives_the_loss_of_the_broker(
    cluster: Cluster, replica: BrokerServer, tmp_path: Path
) -> None:
    spore = cluster.spawn("one")
    cluster.wait_online("one")
    begun, go = tmp_path / "begun", tmp_path / "go"
    results = [cluster.app.send_task(wait_for.name, (str(begun), str(go))) for _ in range(20)]
    wait_until(lambda: begun.exists() and begun.read_text() == "xx", what="both slots are busy")
    cluster.server.kill()
    promote(replica, cluster.server.port)
    go.touch()
    assert [result.get(timeout=60) for result in results] == ["went on"] * 20
    assert begun.read_text() == "x" * 20, (
        "each ran once, those that were running at the fail-over too"
    )
    assert spore.process.poll() is None
    with cluster.server.client() as client:  # who answers at that address now
        assert client.info("replication")["role"] == "master"


def test_a_task_that_no_replica_confirms_is_said_to_be_so(cluster: Cluster) -> None:
    cluster.app.conf.broker_transport_options["wait_timeout"] = 0.1
    with pytest.raises(BrokerUnreachableError, match="0 of the 1 replicas") as told:
        cluster.app.send_task("anything", ignore_result=True)
    assert told.value.outcome == "unknown"
    known = client_of(cluster.app).redis.hget("venom:ids", told.value.task_id)
    assert known == told.value.publish_id.encode()
    again = {"hive": {"id": told.value.publish_id, "keep": True}}
    with pytest.raises(BrokerUnreachableError):
        cluster.app.send_task("anything", ignore_result=True, headers=again)
    client = client_of(cluster.app)
    assert client.redis.hlen(client.key("entries")) == 1, "it is one task however often it was sent"


def test_a_replica_that_hangs_confirms_nothing(cluster: Cluster, replica: BrokerServer) -> None:
    assert replica.process is not None
    replica.process.send_signal(signal.SIGSTOP)
    cluster.app.conf.broker_transport_options["wait_timeout"] = 0.1
    with pytest.raises(BrokerUnreachableError, match="0 of the 1 replicas"):
        cluster.app.send_task("anything", ignore_result=True)


def test_a_batch_that_no_replica_confirms_is_said_to_be_so(cluster: Cluster) -> None:
    cluster.app.conf.broker_transport_options["wait_timeout"] = 0.1
    with cluster.app.connection_for_write() as connection, connection.channel() as channel:
        batch = channel.create_publish_batch(10)
        for number in range(3):
            message = channel.prepare_message(
                "[]",
                headers={"hive": {"id": f"{number:024}"}, "id": str(number), "task": "anything"},
            )
            batch.publish(message, exchange="", routing_key="batch")
        with pytest.raises(BrokerUnreachableError, match="0 of the 1 replicas"):
            batch.flush()
    client = client_of(cluster.app)
    assert client.redis.hlen(client.key("entries")) == 3
