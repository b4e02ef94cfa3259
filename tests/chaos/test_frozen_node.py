"""A node that hangs is declared dead and its tasks run elsewhere; when it goes on, it neither runs
them again nor changes their results.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from celery import states

from tests.chaos.cluster import ChaosCluster, Spore, chaos_cluster
from tests.chaos.forms import FORM
from tests.chaos.tasks import gated
from tests.harness import wait_until


def idle_process(cluster: ChaosCluster, spore: Spore) -> psutil.Process:
    working = {run.pid for run in cluster.ledger.read().running()}
    [idle] = [process for process in spore.pool() if process.pid not in working]
    return idle


def freeze_with_two_tasks(cluster: ChaosCluster, spore: Spore, go: Path) -> dict[str, str]:
    """Stop a node of two slots while one task runs there and one waits in a pool process' pipe;
    their ids by label.
    """
    tasks = {
        "runs": cluster.app.send_task(
            gated.name, ("runs", str(go)), link=gated.si("told", str(go))
        ).id
    }
    wait_until(lambda: cluster.ledger.read().of("runs"), FORM.patience, "the task has begun")
    idle_process(cluster, spore).suspend()
    tasks["waits"] = cluster.app.send_task(gated.name, ("waits", str(go))).id
    wait_until(lambda: len(cluster.held_by(spore.node)) == 2, FORM.patience, "the node holds both")
    wait_until(
        lambda: f"[{tasks['waits']}] received" in spore.process.output(),
        FORM.patience,
        "its worker knows both",
    )
    spore.signal(signal.SIGSTOP)
    return tasks


def fills_both_slots(cluster: ChaosCluster, go: Path) -> None:
    """The node that came back runs two tasks at once: whatever it held of the past is over."""
    after = [
        cluster.app.send_task(gated.name, (f"after{n}", str(go)), requirements={"node": "frozen@h"})
        for n in range(2)
    ]
    wait_until(lambda: len(cluster.ledger.read().running()) == 2, FORM.patience, "both run")
    assert {run.label for run in cluster.ledger.running()} == {"after0", "after1"}
    go.touch()
    assert {result.get(timeout=FORM.patience) for result in after} == {"frozen@h"}
    wait_until(lambda: not cluster.left_over(), FORM.patience, "nothing is left")


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
def test_a_frozen_nodes_tasks_run_elsewhere_and_only_there(tmp_path: Path) -> None:
    with chaos_cluster(tmp_path, hive_heartbeat_interval=0.5) as cluster:
        cluster.start_nexus()
        frozen, go = cluster.start("frozen", supervised=True), tmp_path / "go"
        cluster.wait_online("frozen")
        tasks = freeze_with_two_tasks(cluster, frozen, go)
        began = time.monotonic()
        cluster.start("other")
        wait_until(
            lambda: (
                len({run.label for run in cluster.ledger.read().running() if run.node == "other@h"})
                == 2
            ),
            FORM.patience,
        )
        go.touch()
        results = {label: cluster.app.AsyncResult(task_id) for label, task_id in tasks.items()}
        assert {result.get(timeout=FORM.patience) for result in results.values()} == {"other@h"}
        wait_until(
            lambda: time.monotonic() >= began + FORM.freeze,
            FORM.freeze + 1,
            "frozen for long enough",
        )
        wait_until(
            lambda: [run for run in cluster.ledger.read().of("told") if run.ended],
            FORM.patience,
            "the callback has run",
        )
        frozen.signal(signal.SIGCONT)
        fills_both_slots(cluster, tmp_path / "after")
        ledger = cluster.ledger.read()
        assert [run.node for run in ledger.of("runs")] == ["frozen@h", "other@h"]
        assert [run.node for run in ledger.of("waits")] == ["other@h"]
        assert len(ledger.of("told")) == 1, "the late run called nobody back"
        for result in results.values():
            meta = cluster.app.backend.get_task_meta(result.id)
            assert (meta["status"], meta["result"], meta["hive"]["node"]) == (
                states.SUCCESS,
                "other@h",
                "other@h",
            )
        print(
            f"\nfrozen   for {time.monotonic() - began:.0f} s: both tasks ran elsewhere, none "
            "again here, both results stand"
        )
