"""Killing spores that hold work loses nothing; the tasks count themselves."""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.harness import BrokerServer, WorkerProcess, wait_until

TASKS = 500
KILLS = 20

APP = """
import os, time
from celery import Celery
import hive

app = hive.install(Celery("kills"))
fd = os.open(os.environ["RAN_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(ignore_result=True)
def work(number, seconds):
    time.sleep(seconds)
    os.write(fd, f"{number}\\n".encode())
"""

SEND = """
import random, sys, kills_app
random.seed(1)
for number in range(int(sys.argv[1])):
    options = {"countdown": random.random() * 5} if number % 10 == 0 else {}
    kills_app.work.apply_async((number, random.uniform(0.05, 0.4)), **options)
"""


class Cluster:
    """Three spores of two slots and a nexus; a killed spore is started again by the next call."""

    def __init__(self, directory: Path, broker: BrokerServer) -> None:
        self.directory = directory
        self.ran_file = directory / "ran"
        self.ran_file.touch()
        (directory / "kills_app.py").write_text(APP)
        (directory / "send.py").write_text(SEND)
        self.env = {**broker.environment, "RAN_FILE": str(self.ran_file), "HIVE_MAX_RETRIES": "50", "NEXUS_PORT": "0"}
        self.env["HIVE_HEARTBEAT_INTERVAL"] = "0.3"
        self.nexus = WorkerProcess(directory / "nexus.log", sys.executable, "-m", "hive", "nexus", env=self.env, cwd=directory)
        self.spores = {name: self.start(name) for name in ("k1", "k2", "k3")}

    def start(self, name: str) -> WorkerProcess:
        options = ("--without-gossip", "--without-mingle")
        return WorkerProcess.celery(self.directory, name, app="kills_app", env=self.env, options=options)

    def kill(self, name: str) -> None:
        self.spores[name].kill()
        self.spores[name] = self.start(name)

    def ran(self) -> Counter[str]:
        return Counter(self.ran_file.read_text().split())

    def logs(self) -> str:
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in self.directory.glob("*.log"))

    def stop(self) -> None:
        for process in (*self.spores.values(), self.nexus):
            process.kill()


@pytest.fixture
def cluster(tmp_path: Path, broker: BrokerServer) -> Iterator[Cluster]:
    started = Cluster(tmp_path, broker)
    yield started
    started.stop()


def holding(client: redis.Redis, name: str) -> int:
    return int(client.hlen(f"venom:reserved:{name}@h"))


def test_no_task_is_lost_when_spores_that_hold_work_are_killed(cluster: Cluster, broker: BrokerServer) -> None:
    rng = random.Random(7)
    sender = WorkerProcess(cluster.directory / "send.log", sys.executable, "send.py", str(TASKS), env=cluster.env, cwd=cluster.directory)
    with broker.client() as client:
        for _ in range(KILLS):
            name = rng.choice(list(cluster.spores))
            wait_until(functools.partial(holding, client, name), what="the spore holds work")
            cluster.kill(name)
        try:
            wait_until(lambda: len(cluster.ran()) == TASKS, 60, "every task has run")
        except AssertionError as error:
            lost = {str(number) for number in range(TASKS)} - set(cluster.ran())
            raise AssertionError(f"lost {sorted(lost)}; counters {client.hgetall('venom:counters')}\n{cluster.logs()}") from error
        wait_until(lambda: client.hlen("venom:entries") == 0, what="nothing is left over")
        assert client.hlen("venom:dead") == 0
        counters = client.hgetall("venom:counters")
    assert sender.process.wait(60) == 0
    assert int(counters[b"accepted"]) == int(counters[b"done"]) == TASKS
    again = sum(times - 1 for times in cluster.ran().values())
    assert again <= KILLS * 2, "only what a killed spore held may run again"
