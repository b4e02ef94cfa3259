"""The broker is away in the middle of whatever is waited for: each ends right, nothing runs twice,
and `complete` tells the truth.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from celery import chord

import hive
from hive.agents.parallel_skill import ParallelSkill
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.jobs.answer.job import Job
from tests.harness import BrokerServer, free_port, wait_until
from tests.integration import map_skills as skills
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.map_cluster import SKILLS, MapCluster, by_index, wait_for_run
from tests.proxy import Proxy

pytestmark = pytest.mark.slow

LONG = os.environ.get("HIVE_TEST_CHAOS") == "long"
SECONDS = (15.0, 60.0) if LONG else (0.5, 5.0)
HEARTBEAT = 1.0 if LONG else 0.3
"""A caller's sign of life lasts ten of these: less than the longest outage."""
PATIENCE = SECONDS[-1] + 60.0
ITEMS = 200


class Outages:
    """Two spores that reach their broker directly, and a caller that does so through a proxy."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.server = BrokerServer(directory / "broker").start()
        stack.callback(self.server.kill)
        self.proxy = Proxy(self.server.port)
        stack.callback(self.proxy.close)
        self.cluster = MapCluster(
            directory,
            server=self.server,
            port=self.proxy.port,
            hive_heartbeat_interval=HEARTBEAT,
        )
        stack.callback(self.cluster.close)
        for name in ("one", "two"):
            direct = {"REDIS_PORT": str(self.server.port)}
            self.cluster.spawn(name, options=SKILLS, env=direct)
        self.cluster.wait_online("one", "two")

    @property
    def app(self) -> Any:
        return self.cluster.app

    def killed(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        self.server.kill()
        meanwhile()
        time.sleep(seconds)
        self.server.start()

    def frozen(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        meanwhile()
        time.sleep(seconds)
        self.server.process.send_signal(signal.SIGCONT)

    def caller_cut(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        self.proxy.switch(free_port())
        meanwhile()
        time.sleep(seconds)
        self.proxy.switch(self.server.port)


KINDS: dict[str, Callable[[Outages, float, Callable[[], None]], None]] = {
    "killed": Outages.killed,
    "frozen": Outages.frozen,
    "caller cut off": Outages.caller_cut,
}


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    with ExitStack() as stack:
        yield Outages(tmp_path_factory.mktemp("outages"), stack)


class Waiting:
    """What several threads wait for at once, and what became of each."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []

    def on(self, name: str, wait: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self.results[name] = wait()
            except Exception as error:  # noqa: BLE001 the test compares what became of each
                self.results[name] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return self.results


def facts_of(result: Any) -> tuple[Any, ...]:
    """What a job's result says, and how often its items were begun."""
    runs = {outcome.attempts for outcome in result.outcomes}
    return result.complete, result.error, result.value, len(result.outcomes), runs


async def indexes(job: Job) -> list[int]:
    return sorted([outcome.index async for outcome in job])


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_waited_for_through_an_outage_ends_right(
    outages: Outages, kind: str, seconds: float, tmp_path: Path
) -> None:
    app, waiting = outages.app, Waiting()
    go, away, half = tmp_path / "go", threading.Event(), ITEMS // 2

    def fed() -> Iterator[int]:
        yield from range(half)
        away.wait(PATIENCE)
        yield from range(half, ITEMS)

    gated = skills.gated.s((1, str(go)))
    single = gated.apply_async()
    member = gated.set(task_id=f"member-{tmp_path.name}")
    body = chord([member, skills.square.s(2)], app=app)(skills.echo.s())
    for task_id in (single.id, member.options["task_id"]):
        wait_until(lambda one=task_id: app.AsyncResult(one).state == "STARTED", 30, "they run")
    stream = hive.map(skills.slow_echo, fed(), "sum", feed="thread", app=app)
    asked = hive.map(skills.slow_echo, iter(range(ITEMS)), "sum", app=app)
    stored = hive.map(skills.slow_echo, range(ITEMS), skills.first_and_last, app=app)
    wait_for_run(stream, 20)
    wait_for_run(stored, 1)
    waiting.on("get", lambda: single.get(timeout=PATIENCE))
    waiting.on("chord", lambda: body.get(timeout=PATIENCE))
    waiting.on("fed, result", lambda: facts_of(stream.result(PATIENCE)))
    waiting.on("fed, for", lambda: sorted(by_index(iter(stream))))
    waiting.on("fed, async for", lambda: asyncio.run(indexes(stream)))
    waiting.on("asked, result", lambda: facts_of(asked.result(PATIENCE)))
    waiting.on("stored, result", lambda: facts_of(stored.result()))
    waiting.on("stored, await", lambda: facts_of(asyncio.run(_awaited(stored))))

    def meanwhile() -> None:
        away.set()
        go.touch()

    KINDS[kind](outages, seconds, meanwhile)
    total, everything = sum(range(ITEMS)), list(range(ITEMS))
    found = waiting.end()
    expected = {
        "get": 1,
        "chord": [1, 4],
        "fed, result": (True, None, total, ITEMS, {1}),
        "fed, for": everything,
        "fed, async for": everything,
        "asked, result": (True, None, total, ITEMS, {1}),
        "stored, result": (True, None, [0, ITEMS - 1, ITEMS], ITEMS, {1}),
        "stored, await": (True, None, [0, ITEMS - 1, ITEMS], ITEMS, {1}),
    }
    if kind == "caller cut off" and seconds > 30 * HEARTBEAT:
        for name in ("fed, result", "asked, result"):
            complete, error, *_ = found.pop(name)
            assert not complete
            assert "or cut off from the broker: nothing was heard of it for" in error
        for name in ("fed, result", "asked, result", "fed, for", "fed, async for"):
            expected.pop(name)
            found.pop(name, None)
    assert found == expected


async def _awaited(job: Job) -> Any:
    return await job


def test_a_caller_whose_connections_fall_silent_feeds_on(outages: Outages, tmp_path: Path) -> None:
    silent, half = threading.Event(), ITEMS // 2

    def fed() -> Iterator[int]:
        yield from range(half)
        silent.wait(PATIENCE)
        yield from range(half, ITEMS)

    job = hive.map(skills.slow_echo, fed(), "sum", feed="thread", app=outages.app)
    wait_for_run(job, 20)
    outages.proxy.silence()
    silent.set()
    # Another caller, whose connections are new, reads it meanwhile.
    with closing(Cluster(tmp_path, server=outages.server)) as another:
        other = hive.job(job.id, app=another.app)
        assert facts_of(other.result(PATIENCE)) == (True, None, sum(range(ITEMS)), ITEMS, {1})
    outages.proxy.switch(outages.server.port)  # the silent ones are closed


@pytest.mark.parametrize("seconds", SECONDS)
def test_an_agents_subtasks_are_waited_for_through_an_outage(
    outages: Outages, seconds: float, tmp_path: Path
) -> None:
    go, waiting, app = tmp_path / "go", Waiting(), outages.app
    (tmp_path / "requirements.txt").write_text("flask==3.0.0\n")
    busy = [skills.gated.apply_async(((1, str(go)),)) for _ in range(4)]
    for result in busy:
        wait_until(lambda one=result: one.state == "STARTED", what="every slot is taken")
    agent = ParallelSkill(MessageBroker(app), tmp_path)
    subtasks = json.dumps(["Scan requirements.txt", f"Scan {tmp_path}"])
    before = len(client_of(app).redis.keys("venom:subtasks:*"))
    waiting.on("agent", lambda: asyncio.run(agent.parallel_execute("Audit", subtasks)))
    redis = client_of(app).redis
    wait_until(
        lambda: len(redis.keys("venom:subtasks:*")) > before and redis.hlen("venom:entries") == 6,
        what="the sub-tasks wait",
    )
    outages.killed(seconds, lambda: None)
    go.touch()
    said = json.loads(waiting.end()["agent"])
    assert (said["summary"]["completed"], said.get("error")) == (2, None)


CALLER = """
import itertools, time, hive
import tests.integration.map_skills as skills
def slowly():
    for number in itertools.count():
        yield number
        time.sleep(0.02)
print(hive.map(skills.square, slowly(), "count", feed="thread").id, flush=True)
time.sleep(600)
"""


def test_a_caller_that_died_in_an_outage_still_ends_its_job_and_complete_says_so(
    outages: Outages, tmp_path: Path
) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        env={
            **outages.server.environment,
            "PYTHONPATH": str(REPOSITORY),
            "HIVE_HEARTBEAT_INTERVAL": str(HEARTBEAT),
        },
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )

    def dies() -> None:
        caller.kill()
        caller.wait(60)
        assert caller.stdout is not None
        caller.stdout.close()

    try:
        assert caller.stdout is not None
        job = hive.job(caller.stdout.readline().strip(), app=outages.app)
        wait_for_run(job, 20)
        outages.killed(SECONDS[0], dies)
        result = job.result(PATIENCE)
    finally:
        if caller.poll() is None:
            dies()
    assert not result.complete
    assert "The process that fed the items is gone" in str(result.error)
    assert result.value == len(result.outcomes) == job.progress().total
    again = job.result(0)
    assert (again.complete, again.error) == (False, result.error), "it stays so"
