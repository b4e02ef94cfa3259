"""hive.map when things die: processes, nodes, callers, the broker; and items that kill.

Nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import hive
from hive.broker.link.client import client_of
from hive.jobs.work.recovery import return_leases
from tests.harness import wait_until
from tests.integration import map_skills as skills
from tests.integration.cluster import REPOSITORY
from tests.integration.map_cluster import by_index, map_cluster, wait_for_run


def test_a_killed_process_loses_no_item(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one") as cluster:
        marker = str(tmp_path / "killed")
        job = hive.map(
            skills.kill_once, [(marker, number) for number in range(200)], "sum", app=cluster.app
        )
        outcomes = by_index(iter(job))
        assert {outcome.value for outcome in outcomes.values()} == set(range(200))
        assert outcomes[50].attempts == 2
        assert job.result(60).value == sum(range(200))


def test_an_item_that_kills_fails_alone(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one", "two", hive_max_retries=1) as cluster:
        job = hive.map(skills.poison_item, range(200), "count", app=cluster.app)
        outcomes = by_index(iter(job))
        assert len(outcomes) == 200
        poisoned = outcomes.pop(50)
        assert (poisoned.status, poisoned.attempts) == ("failed", 2)
        assert "killed its worker" in str(poisoned.error)
        assert poisoned.node in {"one@h", "two@h"}
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}
        assert job.result(60).value == 199
        # The pullers carried it through: none of them became a dead letter.
        assert client_of(cluster.app).redis.hlen("venom:dead") == 0


def test_an_item_that_kills_fails_at_once_where_nothing_is_retried(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one", hive_max_retries=0) as cluster, cluster.watchdog():
        job = hive.map(skills.poison_item, [50], "count", app=cluster.app)
        result = job.result(40)
        assert [(outcome.status, outcome.attempts) for outcome in result.outcomes] == [
            ("failed", 1)
        ]
        assert (result.value, result.complete) == (0, True)


def test_a_killed_nodes_items_run_elsewhere(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "stays", hive_heartbeat_interval=0.3) as cluster, cluster.watchdog():
        dies = cluster.spore("dies")
        job = hive.map(skills.slow_echo, range(300), "sum", app=cluster.app)
        wait_until(lambda: "dies@h" in {outcome.node for outcome in job.result(0).outcomes})
        dies.kill()
        outcomes = by_index(iter(job))
        assert len(outcomes) == 300
        assert job.result(60).value == sum(range(300))


@pytest.mark.slow
def test_a_job_survives_one_kill_after_another(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "stays", hive_heartbeat_interval=0.3) as cluster, cluster.watchdog():
        enough = threading.Event()
        job = hive.map(
            skills.slow_echo,
            itertools.takewhile(lambda _: not enough.is_set(), itertools.count()),
            "sum",
            app=cluster.app,
        )
        for number in range(4):
            dies = cluster.spore(f"dies{number}")
            wait_for_run(job, job.progress().completed + 40)
            dies.kill()
        enough.set()
        result = job.result(60)
        items = len(result.outcomes)
        assert [outcome.index for outcome in result.outcomes] == list(range(items))
        assert (result.value, {outcome.status for outcome in result.outcomes}) == (
            sum(range(items)),
            {"ok"},
        )


@pytest.mark.slow
def test_a_node_that_was_only_frozen_doubles_nothing(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "stays", hive_heartbeat_interval=0.3) as cluster, cluster.watchdog():
        frozen = cluster.spore("frozen")
        enough = threading.Event()
        job = hive.map(
            skills.slow_echo,
            itertools.takewhile(lambda _: not enough.is_set(), itertools.count()),
            "sum",
            app=cluster.app,
        )
        wait_until(lambda: "frozen@h" in {outcome.node for outcome in job.result(0).outcomes})
        frozen.kill(signal.SIGSTOP)
        epochs = client_of(cluster.app).redis
        wait_until(
            lambda: (
                not [name for name in epochs.hkeys("venom:epochs") if name.startswith(b"frozen@h/")]
            ),
            what="declared dead",
        )
        wait_for_run(job, job.progress().completed + 20)
        frozen.kill(signal.SIGCONT)
        wait_for_run(job, job.progress().completed + 50)
        enough.set()
        items = len(by_index(iter(job)))
        assert job.result(60).value == sum(range(items))


def test_returned_leases_are_taken_by_others_before_the_dead_pullers_return(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "stays") as cluster:
        dies = cluster.spore("dies")
        items = [(str(tmp_path / "marks"), number, 1.0) for number in range(4)]
        (tmp_path / "marks").mkdir()
        job = hive.map(skills.marked, items, "sum", app=cluster.app)
        wait_until(lambda: len(list((tmp_path / "marks").iterdir())) == 4)
        client = client_of(cluster.app)
        held = [raw.decode() for raw in client.redis.hkeys("venom:reserved:dies@h")]
        assert held
        dies.kill()
        # What the watchdog's restore does to the messages is not done here: only the leases come
        # back.
        assert return_leases(client, [*held, "of-another-task"]) == len(held)
        outcomes = by_index(iter(job))
        assert sorted(outcome.attempts for outcome in outcomes.values()) == [1] * (
            4 - len(held)
        ) + [2] * len(held)
        assert {outcome.node for outcome in outcomes.values()} == {"stays@h"}


def test_a_broker_that_restarts_loses_no_outcome(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one") as cluster:
        job = hive.map(skills.slow_echo, (number for number in range(200)), "sum", app=cluster.app)
        wait_for_run(job, 20)
        cluster.server.kill(signal.SIGKILL)
        cluster.server.start()
        outcomes = by_index(iter(job))
        assert len(outcomes) == 200
        assert job.result(60).value == sum(range(200))


def test_a_reduce_that_ends_while_the_broker_is_away_runs_once_and_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with map_cluster(tmp_path, "one") as cluster:
        job = hive.map(skills.echo, [str(log)] * 10, skills.slow_reduce, app=cluster.app)
        wait_until(log.exists)
        cluster.server.kill(signal.SIGKILL)
        worker = cluster.spores[0]
        wait_until(lambda: "puller_waits_for_broker" in worker.output(), what="the reduce is done")
        cluster.server.start()
        result = job.result(60)
        assert (result.value, result.error, result.complete) == (10, None, True)
        assert log.read_text() == "x"


def test_chunks_beyond_two_seconds_work_do_not_stop_the_input(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one", concurrency=1) as cluster:
        items = iter([0.1] * 50)
        result = hive.map(skills.pause, items, "count", chunk=25, app=cluster.app).result(30)
        assert (result.value, result.complete) == (50, True)


def test_a_reduce_that_kills_ends_the_job_with_an_error(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one") as cluster:
        result = hive.map(skills.square, range(10), skills.killing_reduce, app=cluster.app).result(
            60
        )
        assert result.complete
        assert "killed its worker 3 times" in str(result.error)
        assert len(result.outcomes) == 10


def test_nodes_that_do_not_know_the_skill_leave_the_items_to_those_that_do(tmp_path: Path) -> None:
    with map_cluster(tmp_path) as cluster:
        cluster.spawn("ignorant")
        cluster.wait_online("ignorant")
        result = hive.map(skills.square, range(10), "count", app=cluster.app).result(60)
        assert (result.complete, result.value) == (True, 0)
        assert {outcome.status for outcome in result.outcomes} == {"failed"}
        assert "ignorant@h does not know the task" in str(result.outcomes[0].error)
        cluster.spore("knows")
        assert hive.map(skills.square, range(10), "count", app=cluster.app).result(60).value == 10


@pytest.mark.slow
def test_an_item_that_cannot_be_stopped_is_killed_and_fails_alone(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one", hive_max_retries=0) as cluster:
        result = hive.map(skills.stubborn, [0.1, 300.0, 0.1, 0.1], "count", app=cluster.app).result(
            60
        )
        assert [outcome.status for outcome in result.outcomes] == ["ok", "failed", "ok", "ok"]
        assert "killed its worker" in str(result.outcomes[1].error)
        assert result.value == 3


def test_a_stored_list_goes_on_when_its_caller_is_killed(tmp_path: Path) -> None:
    with map_cluster(tmp_path, "one") as cluster:
        program = """
import hive, os, signal
import tests.integration.map_skills as skills
print(hive.map(skills.slow_echo, range(100), "sum").id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        environment = {**os.environ, **cluster.server.environment, "PYTHONPATH": str(REPOSITORY)}
        said = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert said.returncode == -signal.SIGKILL
        assert hive.job(said.stdout.strip(), app=cluster.app).result(60).value == sum(range(100))


def test_a_worker_that_is_told_to_stop_finishes_its_lease_and_the_job_goes_on(
    tmp_path: Path,
) -> None:
    with map_cluster(tmp_path, "stays") as cluster:
        leaves = cluster.spore("leaves")
        job = hive.map(skills.slow_echo, range(300), "sum", app=cluster.app)
        wait_for_run(job, 20)
        assert leaves.stop() == 0
        result = job.result(60)
        assert (result.value, len(result.outcomes)) == (sum(range(300)), 300)
        assert {outcome.attempts for outcome in result.outcomes} == {1}
