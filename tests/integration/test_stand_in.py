"""Without any nexus the spores themselves recover what a dead node held, within 30 s; where a nexus
is, they leave it to that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hive.testing
from hive.broker.link.client import client_of
from hive.foreman.watch.watchdog import Watchdog
from hive.testing import Cluster
from tests.harness import wait_until
from tests.integration.jobs import wait_for
from tests.integration.jobs_app import JOBS


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, spores=0, watch=False, hive_heartbeat_interval=1.0) as started:
        yield started


@pytest.mark.slow
def test_spores_recover_a_dead_nodes_work_without_a_nexus(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start("first", concurrency=1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    result = cluster.app.send_task(wait_for.name, (str(begun), str(go)))
    wait_until(begun.exists, what="the task has begun")
    cluster.start("second")
    cluster.kill("first")
    wait_until(lambda: begun.read_text() == "xx", what="the task has begun again elsewhere")
    go.touch()
    assert result.get(timeout=60) == "went on"


def test_a_stand_in_waits_for_a_nexus_that_is_there_and_gives_way_to_one_that_comes(
    cluster: Cluster,
) -> None:
    client = client_of(cluster.app)
    nexus, stand_in = Watchdog(client, cluster.app), Watchdog(client, cluster.app, patience=0.2)
    nexus.tick()
    stand_in.tick()
    assert (nexus.leads, stand_in.leads) == (True, False)

    def stand_in_leads() -> bool:
        stand_in.tick()
        return stand_in.leads

    wait_until(stand_in_leads, what="the nexus has been gone for the lease and the patience")

    def nexus_leads() -> bool:
        stand_in.tick()
        nexus.tick()
        return nexus.leads

    wait_until(nexus_leads, what="the stand-in does not prolong its lease")
    stand_in.tick()
    assert not stand_in.leads
