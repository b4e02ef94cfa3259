"""A long task on a node whose connections are lost again and again runs once."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.cluster import ChaosCluster, Spore, chaos_cluster
from tests.chaos.forms import FORM
from tests.chaos.tasks import long
from tests.harness import wait_until

TIMES = 10


def connections_of(cluster: ChaosCluster, spore: Spore) -> list[dict[str, str]]:
    """All the broker's clients that are the spore's worker or one of its pool processes."""
    worker = spore.worker()
    assert worker is not None
    ports = set()
    for process in (worker, *worker.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            ports |= {connection.laddr.port for connection in process.net_connections("tcp")}
    return [
        client
        for client in cluster.client.redis.client_list()
        if int(client["addr"].rpartition(":")[2]) in ports
    ]


def cut(cluster: ChaosCluster, spore: Spore) -> int:
    """Kill the connections of a node that consumes; returns how many there were."""
    wait_until(
        lambda: any(client["cmd"] == "blpop" for client in connections_of(cluster, spore)),
        FORM.patience,
        "it waits for work",
    )
    epoch = epochs(cluster, spore)
    killed = sum(
        cluster.client.redis.client_kill_filter(_id=client["id"])
        for client in connections_of(cluster, spore)
    )
    wait_until(lambda: epochs(cluster, spore) > epoch, FORM.patience, "the node consumes again")
    return killed


def epochs(cluster: ChaosCluster, spore: Spore) -> int:
    """The epoch of the node's one incarnation: one more with each consuming connection."""
    known = cluster.client.redis.hgetall(cluster.client.key("epochs"))
    known = cluster.client.redis.hgetall(cluster.client.key("epochs"))
    found = [
        int(value) for name, value in known.items() if name.decode().startswith(f"{spore.node}/")
    ]
    assert len(found) < 2, "nobody took it for dead"
    return sum(found)


@pytest.mark.slow
@pytest.mark.timeout(FORM.long_task + FORM.timeout)
def test_a_long_task_runs_once_while_its_nodes_connections_are_killed(tmp_path: Path) -> None:
    # The task's lifted limit has to win over this one.
    with chaos_cluster(tmp_path, hive_task_timeout=5) as cluster:
        cluster.start_nexus()
        first = cluster.start("first")
        cluster.wait_online("first")
        result = cluster.app.send_task(long.name, ("long", FORM.long_task))
        wait_until(lambda: cluster.ledger.read().of("long"), FORM.patience, "the task has begun")
        incarnation = cluster.ledger.of("long")[0].incarnation
        cluster.start("second")
        cluster.wait_online("second")
        killed = 0
        for nth in range(TIMES):
            due = cluster.ledger.of("long")[0].started + FORM.long_task * nth / (TIMES + 1)
            wait_until(
                lambda due=due: time.monotonic() >= due, FORM.long_task, "the next cut is due"
            )
            killed += cut(cluster, first)
        assert cluster.ledger.read().of("long")[0].ended is None, "all cuts fell into the run"
        assert result.get(timeout=FORM.long_task + FORM.patience) == "first@h"
        wait_until(
            lambda: not cluster.left_over(), FORM.patience, "no reservation and no body is left"
        )
        [run] = cluster.ledger.read().of("long")
        assert run.incarnation == incarnation
        counters = cluster.counters()
        assert counters["accepted"] == counters["done"] == 1
        print(
            f"\nlong     a task of {FORM.long_task:g} s ran once; {killed} connections of its node "
            f"killed, {TIMES} times"
        )
