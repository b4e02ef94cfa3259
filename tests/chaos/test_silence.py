"""A machine that stalls, or is cut off from the broker, is no crash: what it runs ends once, and
nothing of it becomes a dead letter.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import ChaosCluster, chaos_cluster
from tests.chaos.forms import FORM
from tests.chaos.ledger import Run
from tests.chaos.tasks import long
from tests.harness import wait_until
from tests.proxy import Proxy

BEATS = {"hive_heartbeat_interval": FORM.heartbeat}


@contextlib.contextmanager
def link_to(cluster: ChaosCluster) -> Iterator[Proxy]:
    proxy = Proxy(cluster.server.port)
    try:
        yield proxy
    finally:
        proxy.close()


def passed(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 5, "so long it lasts")


def begun(cluster: ChaosCluster, count: int) -> list[Run]:
    wait_until(lambda: len(cluster.ledger.read().running()) == count, FORM.patience, f"{count} run")
    return cluster.ledger.running()


def send(cluster: ChaosCluster, count: int, seconds: float) -> list[object]:
    return [cluster.app.send_task(long.name, (f"t{n}", seconds)) for n in range(count)]


def ended_once(cluster: ChaosCluster, results: list[object], seconds: float) -> None:
    """Every task has ended, and nothing is left, dead letters neither."""
    for result in results:
        result.get(timeout=seconds + FORM.patience)  # type: ignore[attr-defined]
    wait_until(lambda: not cluster.left_over(), FORM.patience, "nothing is left")
    counters = cluster.counters()
    assert counters["accepted"] == counters["done"] == counters["completed"] == len(results)
    assert not counters.get("dead")
    assert not cluster.client.redis.exists(cluster.client.key("absences"))


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
def test_with_the_brokers_own_link_down_nobody_is_missed_and_each_task_runs_once(
    tmp_path: Path,
) -> None:
    """The nexus is beside the broker, and hears no node; none of them could take the work."""
    with chaos_cluster(tmp_path, **BEATS) as cluster, link_to(cluster) as link:
        cluster.start_nexus()
        for name in ("s0", "s1"):
            cluster.start(name, slots=2, port=link.port)
        cluster.wait_online("s0", "s1")
        results = send(cluster, 6, FORM.cut_task)
        begun(cluster, 4)
        link.down()
        passed(FORM.cut)
        link.up()
        ended_once(cluster, results, FORM.cut_task)
        assert cluster.ledger.read().ran_again() == []
        assert cluster.declared_dead() == set()


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
def test_a_node_that_was_cut_off_gets_back_what_nobody_else_has_begun(tmp_path: Path) -> None:
    """The other node is full: what the first one runs waits at home until it is back."""
    with chaos_cluster(tmp_path, **BEATS) as cluster, link_to(cluster) as link:
        cluster.start_nexus()
        cluster.start("far", slots=2, port=link.port)
        cluster.wait_online("far")
        results = send(cluster, 2, FORM.cut_task)
        begun(cluster, 2)
        cluster.start("near", slots=2)
        cluster.wait_online("near")
        results += [
            cluster.app.send_task(long.name, (f"n{n}", 2 * FORM.cut_task)) for n in range(2)
        ]
        begun(cluster, 4)
        link.down()
        wait_until(cluster.declared_dead, FORM.patience, "the far one is missed")
        passed(FORM.cut / 2)
        link.up()
        ended_once(cluster, results, 2 * FORM.cut_task)
        assert cluster.ledger.read().ran_again() == []


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_task_whose_node_stalls_or_is_cut_off_five_times_ends_once(
    tmp_path: Path, fault: str
) -> None:
    with chaos_cluster(tmp_path, **BEATS) as cluster, link_to(cluster) as link:
        cluster.start_nexus()
        far = cluster.start("far", slots=1, port=link.port)
        cluster.wait_online("far")
        [result] = send(cluster, 1, FORM.stalled_task)
        [run] = begun(cluster, 1)
        cluster.start("near", slots=1)
        cluster.wait_online("near")
        for _ in range(5):
            if fault == "stall":
                far.signal(signal.SIGSTOP)
            else:
                link.down()
            passed(FORM.stall)
            if fault == "stall":
                far.signal(signal.SIGCONT)
            else:
                link.up()
            wait_until(lambda: run.incarnation in alive(cluster), FORM.patience, "the node is back")
        ended_once(cluster, [result], FORM.stalled_task)
        assert cluster.ledger.read().of("t0")[0].ended, "what stalled has gone on to its end"


def alive(cluster: ChaosCluster) -> set[str]:
    return {raw.decode() for raw in cluster.client.redis.hkeys(cluster.client.key("epochs"))}
