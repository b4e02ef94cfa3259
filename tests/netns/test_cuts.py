"""Links that fail: nothing is lost, what is only cut off is no crash, and of the broker's own link
nothing runs twice.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.cluster import Spore
from tests.chaos.tasks import long, work
from tests.harness import wait_until
from tests.netns.hive import MASTER, PATIENCE, Hive, hive_on, passed
from tests.netns.network import FAULTS

SPORES = ("s0", "s1", "s2")
SLOTS = 3

pytestmark = pytest.mark.timeout(400)


def test_six_tasks_run_once_while_the_broker_and_the_nexus_are_cut_off_for_15_s(
    tmp_path: Path,
) -> None:
    with hive_on(tmp_path, *SPORES) as hive:
        hive.start_everything(2)
        results = [hive.app.send_task(long.name, (f"t{n}", 45)) for n in range(6)]
        hive.running(6)
        with hive.machines[MASTER].fault("down"):
            passed(15)
        assert {result.get(timeout=PATIENCE) for result in results} == {f"{s}@h" for s in SPORES}
        hive.all_done(6)
        assert hive.ledger.read().ran_again() == []
        assert hive.declared_dead() == set()


@contextlib.contextmanager
def stalled(spore: Spore) -> Any:
    spore.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        spore.signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", ["cuts", "stalls"])
def test_a_task_of_60_s_ends_once_under_five_of_6_s(tmp_path: Path, fault: str) -> None:
    with hive_on(tmp_path, *SPORES) as hive:
        hive.start_everything(1)
        result = hive.app.send_task(long.name, ("t", 60))
        [run] = hive.running(1)
        name = run.node.partition("@")[0]
        for _ in range(5):
            machine, spore = hive.machines[name], hive.by_name[name]
            with machine.fault("down") if fault == "cuts" else stalled(spore):
                passed(6)
            wait_until(
                lambda: hive.client.redis.hexists(hive.client.key("epochs"), run.incarnation),
                PATIENCE,
                "the node is back",
            )
            passed(2)
        result.get(timeout=PATIENCE)
        wait_until(lambda: not hive.left_over(), PATIENCE, "all is done")
        counters = hive.counters()
        assert counters["accepted"] == counters["done"] == counters["completed"] == 1
        assert not counters.get("dead")
        assert len(hive.ledger.read().of("t")) <= 2, "taken over once at most, and never given back"


def storm(hive: Hive, victim: str, fault: str) -> tuple[float, float]:
    """600 tasks, in the middle of which a machine's link fails for 20 s; when that was."""
    for n in range(600):
        hive.app.send_task(work.name, (f"t{n}", 0.3))
    wait_until(lambda: len(hive.ledger.read().ended) > 30, PATIENCE, "it is in full swing")
    began = time.monotonic()
    with hive.machines[victim].fault(fault):
        passed(20)
    ended = time.monotonic()
    hive.all_done(600)
    return began, ended


@pytest.mark.parametrize("fault", FAULTS)
def test_600_tasks_while_the_link_of_one_node_fails_for_20_s(tmp_path: Path, fault: str) -> None:
    with hive_on(tmp_path, *SPORES) as hive:
        hive.start_everything(SLOTS)
        began, ended = storm(hive, "s0", fault)
        again = hive.ledger.read().ran_again()
        for run in again:
            assert run.node == "s0@h", "only what the cut node ran"
            assert run.started < ended, "while it was cut off"
            assert run.ended is None or run.ended > began - 1
        if fault != "loss":
            assert len(again) <= SLOTS, "only what ran at the cut"


@pytest.mark.parametrize("fault", FAULTS)
def test_600_tasks_while_the_brokers_own_link_fails_for_20_s(tmp_path: Path, fault: str) -> None:
    with hive_on(tmp_path, *SPORES) as hive:
        hive.start_everything(SLOTS)
        storm(hive, MASTER, fault)
        again = hive.ledger.read().ran_again()
        if fault == "loss":
            # Of four packets that a node sends in a row all may be lost, and then it is not heard
            # for as long as a death takes, while others are.
            assert {run.incarnation for run in again} <= hive.declared_dead()
        else:
            assert again == []
            assert hive.declared_dead() == set()
