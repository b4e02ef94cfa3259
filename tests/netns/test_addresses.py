"""Machines come back from a cut with another address, as those do that get it by DHCP."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.ledger import Run
from tests.chaos.tasks import long
from tests.harness import wait_until
from tests.netns.hive import (
    CUT,
    MASTER,
    NEXUSES,
    PATIENCE,
    SLOTS,
    SPORES,
    Hive,
    hive_on,
    passed,
)

BACK_WITHIN = 15
"""Seconds: ten are promised, and a busy machine takes its time to answer."""

pytestmark = pytest.mark.timeout(400)


def move(hive: Hive, name: str) -> None:
    hive.machines[name].move(hive.machines[name].address.replace("10.77.0.", "10.77.0.20"))


def probe(hive: Hive, runs: list[Run]) -> int:
    """Every node that has a free slot takes work again within ten seconds; how many those are."""
    busy = [run.node for run in runs]
    free = [node for node in (f"{name}@h" for name in SPORES) if busy.count(node) < SLOTS]
    end = time.monotonic() + BACK_WITHIN
    asked = [
        hive.app.send_task(long.name, (f"probe-{node}", 0), requirements={"node": node})
        for node in free
    ]
    assert [result.get(timeout=end - time.monotonic()) for result in asked] == free
    return len(free)


def test_the_broker_comes_back_with_another_address_after_20_s(tmp_path: Path) -> None:
    with hive_on(tmp_path, *NEXUSES, *SPORES) as hive:
        results, runs = hive.begin()
        with hive.cut(MASTER):
            passed(CUT)
            move(hive, MASTER)
            hive.name_broker()
        probes = probe(hive, runs)
        for nexus in NEXUSES:
            wait_until(lambda name=nexus: hive.is_well(name), PATIENCE, f"{nexus} is back")
        # A spore may have stood in first.
        wait_until(lambda: hive.leader() in NEXUSES, PATIENCE, "a nexus leads")
        hive.each_ended_once(results, [], probes)
        assert hive.declared_dead() == set()


def test_a_spore_and_the_nexus_that_leads_come_back_with_other_addresses_after_20_s(
    tmp_path: Path,
) -> None:
    with hive_on(tmp_path, *NEXUSES, *SPORES) as hive:
        results, runs = hive.begin()
        alone = [run for run in runs if run.node == runs[0].node]
        name = alone[0].node.partition("@")[0]
        with hive.cut(name), hive.leader_cut("n1", hive.cut("n1")):
            move(hive, name)
            move(hive, "n1")
        hive.wait_back(alone[0])
        assert hive.silent("n2") == {alone[0].node}
        hive.each_ended_once(results, alone)
        assert hive.declared_dead() == {alone[0].incarnation}
