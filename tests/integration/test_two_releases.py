"""Two releases in one hive: real processes of the release before this one beside its own.

The release before comes out of this repository's history; a copy without it skips, loudly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY

pytestmark = pytest.mark.slow

BEFORE = "4dc7d42"
"""The commit of the release before."""
QUEUES = ("venom:tasks:high", "venom:tasks:background", "films")
OWN_QUEUE = "films"
Release = Literal["old", "new"]
OTHER: dict[Release, Release] = {"old": "new", "new": "old"}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package of the release before in it."""
    git = ["git", "-C", str(REPOSITORY)]
    known = subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True)
    if known.returncode:
        pytest.skip(
            f"NOT TESTED: this copy of the repository has no commit {BEFORE}, so that there is no "
            "release before to run beside this one (git fetch --unshallow)"
        )
    directory = tmp_path_factory.mktemp("before")
    packed = subprocess.run([*git, "archive", BEFORE, "hive"], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(directory)], input=packed.stdout, check=True)
    return directory


class TwoReleases:
    """A broker, and processes of both releases on it. Close it, whatever happened."""

    def __init__(self, directory: Path, before: Path) -> None:
        self.directory = directory
        self.server = BrokerServer(directory / "broker").start()
        self.redis = self.server.client()
        # What both have in common, the application among it, is this repository's.
        self.paths = {"old": f"{before}{os.pathsep}{REPOSITORY}", "new": str(REPOSITORY)}
        self.homes = {"old": before, "new": REPOSITORY}
        self.ran_file = directory / "ran"
        self.ran_file.touch()
        self.processes: list[WorkerProcess] = []

    def environment(self, release: Release) -> dict[str, str]:
        return {
            **self.server.environment,
            "PYTHONPATH": self.paths[release],
            "UPGRADE_RAN": str(self.ran_file),
            "HIVE_HEARTBEAT_INTERVAL": "0.5",
        }

    def spore(
        self, release: Release, queues: tuple[str, ...] = QUEUES, **more: str
    ) -> WorkerProcess:
        spore = WorkerProcess.celery(
            self.directory,
            f"{release}-spore",
            app="tests.upgrade.app",
            env=self.environment(release) | more,
            options=("--without-mingle", "--without-gossip", "-Q", ",".join(queues)),
        )
        self.processes.append(spore)
        return spore

    def nexus(self, release: Release) -> WorkerProcess:
        command = (sys.executable, "-m", "hive", "nexus")
        environment = self.environment(release) | {"NEXUS_PORT": "0"}
        log = self.directory / f"{release}-nexus.log"
        nexus = WorkerProcess(log, *command, env=environment, cwd=self.directory)
        self.processes.append(nexus)
        return nexus

    def run(self, release: Release, *command: str) -> Any:
        """What a Python module of that release prints, as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env={**os.environ, **self.environment(release)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout)

    def call(self, release: Release, name: str) -> set[str]:
        """Send a little of everything. Returns: the nodes that ran it."""
        told = self.run(release, "tests.upgrade.call", name)
        assert Path(told["hive"]).is_relative_to(self.homes[release] / "hive"), "the other Hive"
        return set(told["nodes"])

    def status(self, release: Release) -> Any:
        return self.run(release, "hive", "status", "--json")

    def wait_online(self, *releases: Release) -> None:
        def online() -> bool:
            nodes = self.status("new")["nodes"]
            found = {node["node_id"] for node in nodes if node["is_online"]}
            return found == {f"{release}-spore@h" for release in releases}

        wait_until(online, 30, f"the spores of {releases} are online")

    def has_run(self, name: str) -> int:
        return self.ran_file.read_text().splitlines().count(name)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.redis.close()
        self.server.kill()
        for log in self.directory.glob("*.log"):
            assert "Traceback" not in log.read_text(errors="replace"), log.read_text()


@pytest.fixture
def two(tmp_path: Path, before: Path) -> Iterator[TwoReleases]:
    two = TwoReleases(tmp_path, before)
    try:
        yield two
    finally:
        two.close()


@pytest.mark.parametrize("caller", ["old", "new"])
def test_a_spore_of_one_release_runs_what_a_caller_of_the_other_sends(
    two: TwoReleases, caller: Release
) -> None:
    spore = OTHER[caller]
    two.spore(spore)
    two.wait_online(spore)
    assert two.call(caller, "task") == {f"{spore}-spore@h"}


def test_spores_callers_and_nexuses_of_both_releases_work_side_by_side(two: TwoReleases) -> None:
    first = two.nexus("old")
    for release in OTHER:
        two.spore(release)
    two.wait_online("old", "new")
    two.nexus("new")
    with ThreadPoolExecutor() as pool:
        ran = set[str]().union(*pool.map(two.call, OTHER, OTHER))
    assert ran == {"old-spore@h", "new-spore@h"}
    led = two.redis.hget("venom:lease:foreman", "holder")
    assert led is not None
    first.kill()
    for release, other in OTHER.items():
        status = two.status(release)
        assert (status["online_nodes"], status["alarm"]) == (2, None)
        assert not status["failing_duties"]
        for command in ("drain", "resume"):
            (told,) = two.run(release, "hive", "node", command, f"{other}-spore", "--json")
            assert "error" not in told, told
    intervals = {node["node_id"]: node["heartbeat_interval"] for node in two.status("new")["nodes"]}
    assert intervals == {"old-spore@h": None, "new-spore@h": 0.5}, "one of them does not tell it"

    def led_by_another() -> bool:
        return two.redis.hget("venom:lease:foreman", "holder") not in (None, led)

    wait_until(led_by_another, 20, "the other nexus leads")
    counts = two.run("new", "hive", "account", "--json")
    assert (counts["missing"], counts["stranded"]) == (0, 0)


@pytest.mark.parametrize("survivor", ["old", "new"])
def test_what_a_killed_spore_of_one_release_held_is_recovered_by_the_other(
    two: TwoReleases, survivor: Release
) -> None:
    two.nexus(survivor)
    victim = two.spore(OTHER[survivor], queues=(OWN_QUEUE,), UPGRADE_RECORDS="1")
    two.wait_online(OTHER[survivor])
    send = (
        "from tests.upgrade.app import OWN_QUEUE, held; "
        "held.apply_async(('held',), task_id='held', queue=OWN_QUEUE)"
    )
    environment = {**os.environ, **two.environment(survivor)}
    subprocess.run([sys.executable, "-c", send], check=True, env=environment, cwd=two.directory)
    wait_until(lambda: two.has_run("held"), what="it runs")
    two.spore(survivor)
    two.wait_online("old", "new")
    victim.kill()
    wait_until(lambda: two.has_run("held") == 2, 30, "it runs again")
    stored = "celery-task-meta-held"
    wait_until(lambda: b'"SUCCESS"' in (two.redis.get(stored) or b""), what="it has succeeded")
    told = json.loads(two.redis.get(stored))["hive"]
    assert (told["node"], told["attempt"]) == (f"{survivor}-spore@h", 2)


def test_arguments_of_a_signature_are_left_to_nodes_of_a_release_that_knows_them(
    two: TwoReleases,
) -> None:
    for release in OTHER:
        two.spore(release)
    two.wait_online("old", "new")
    program = (
        "import json, hive; from tests.upgrade.app import plus; "
        "job = hive.map(plus.s('plus', 5), range(200), 'sum', chunk=1); "
        "result = job.result(40); nodes = {outcome.node for outcome in result.outcomes}; "
        "print(json.dumps([result.value, result.error, sorted(nodes)]))"
    )
    environment = {**os.environ, **two.environment("new")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=two.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [sum(range(200)) + 200 * 5, None, ["new-spore@h"]]
