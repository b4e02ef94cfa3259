"""An application that keeps its results elsewhere than Hive: what works, and what is refused in a
sentence before anything is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hive
from hive import MessageBroker, ParallelSkill
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.ledger.records import TaskRecords
from hive.broker.link.client import client_of
from hive.broker.results.backend import Backend
from hive.broker.results.on_broker import results_on_broker
from hive.errors import HiveError, TaskFailedError
from hive.testing import kept_registry
from tests.harness import BrokerServer, WorkerProcess, free_port, wait_until
from tests.integration import jobs  # noqa: F401 - skills by name
from tests.integration.cluster import REPOSITORY

MODULE = """
import os

from celery import Celery
from celery.exceptions import Ignore

import hive
from tests.integration import jobs

app = Celery("own_results", backend=os.environ["OWN_RESULTS"])
hive.install(app)


@app.task(name="own.add", shared=False)
def add(x, y=1):
    return x + y


@app.task(name="own.silent", shared=False, ignore_result=True)
def silent(x):
    return x


@app.task(bind=True, name="own.states", shared=False)
def states(self):
    self.update_state(state="FAILURE", meta={"why": "full"})
    raise Ignore()


@app.task(name="own.dies", shared=False)
def dies():
    os.kill(os.getpid(), 9)
"""

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own
_NUMBERS = itertools.count()

READ = ["file", "redis"]
"""Result backends that tell everybody of a result."""
UNREAD = {"rpc": "rpc:// gives a result only to", "disabled": "result backend is disabled"}


class Own:
    """The application in this process, and how others find it."""

    def __init__(self, kind: str, broker: BrokerServer, folder: Path) -> None:
        self.folder = folder
        (folder / "results").mkdir()
        self.module = f"own_results_{next(_NUMBERS)}"
        (folder / f"{self.module}.py").write_text(MODULE)
        url = {
            "file": f"file://{folder / 'results'}",
            "redis": f"redis://127.0.0.1:{broker.port}/1",
            "memory": "cache+memory://",
            "gone": f"redis://:secret@127.0.0.1:{free_port()}/0",
        }.get(kind, f"{kind}://")
        paths = os.pathsep.join((str(folder), str(REPOSITORY)))
        self.environment = {
            **broker.environment,
            "OWN_RESULTS": url,
            "HIVE_MAX_RETRIES": "0",
            "PYTHONPATH": paths,
            "PYTHONWARNINGS": "ignore",
        }
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its result backend stays its own
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.syspath_prepend(str(folder))
            self.tasks: Any = importlib.import_module(self.module)
        self.app = self.tasks.app
        self.client = client_of(self.app)
        self.broker = MessageBroker(self.app)

    def run(self, *arguments: str, code: int) -> str:
        """A command of the command line; what it says on stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "hive", *arguments, "--app", f"{self.module}:app"],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def close(self) -> None:
        self.app.conf.task_routes[0].close()
        with contextlib.suppress(AttributeError, ImportError):  # nothing was waited for
            self.app.backend.result_consumer.stop()
            self.app.backend.result_consumer._pubsub = None  # results are freed after their server
        self.client.close()
        results_on_broker(self.app).client.close()  # type: ignore[attr-defined]
        del sys.modules[self.module]


def own_application(kind: str, broker: BrokerServer, folder: Path) -> Iterator[Own]:
    with kept_registry():
        own = Own(kind, broker, folder)
        yield own
        own.close()


@pytest.fixture(scope="module", params=[*READ, *UNREAD])
def own(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """With a spore."""
    folder = tmp_path_factory.mktemp(request.param)
    server = BrokerServer(folder / "broker").start()
    try:
        for own in own_application(request.param, server, folder):
            spore = WorkerProcess.celery(
                folder,
                "spore-1",
                app=own.module,
                env={**own.environment, "HIVE_HEARTBEAT_INTERVAL": "0.3"},
                options=("--without-gossip", "--without-mingle"),
            )
            try:
                nodes = own.broker.nodes
                wait_until(lambda: any(node.online for node in nodes.read().values()))  # noqa: B023
                yield own
            finally:
                spore.kill(signal.SIGTERM)
                spore.stop()
    finally:
        server.kill()


@pytest.fixture(params=["rpc", "disabled", "memory"])
def unread(request: Any, broker: BrokerServer, tmp_path: Path) -> Iterator[Own]:
    """Without a spore: what is sent would wait."""
    yield from own_application(request.param, broker, tmp_path)


def kind_of(own: Own) -> str:
    return str(own.app.backend.as_uri()).partition(":")[0]


def wait_idle(own: Own) -> None:
    """Until all that was sent has ended."""
    redis, key = own.client.redis, own.client.key
    wait_until(lambda: redis.hlen(key("entries")) == redis.hlen(key("dead")))


# -- what works


def test_a_map_ends_and_its_own_results_are_on_the_broker(own: Own) -> None:
    job = hive.map(own.tasks.add, range(50), reduce="sum")
    assert job.result(timeout=30).value == sum(range(1, 51))
    wait_idle(own)
    failed = int(own.client.redis.hget(own.client.key("counters"), "failed") or 0)
    assert not failed, "its chord ended well"
    assert "Traceback" not in (own.folder / "spore-1.log").read_text()
    own_results = results_on_broker(own.app)
    assert isinstance(own_results, Backend)
    assert own_results is results_on_broker(own.app)
    stored = own.client.redis.keys("celery-task-meta-*")
    assert len(stored) == 2, "the job's two pullers"
    assert all(own.client.redis.ttl(key) > 0 for key in stored)


def test_results_come_as_the_application_wanted_them(own: Own) -> None:
    if kind_of(own) == "disabled":
        return
    assert own.tasks.add.delay(2).get(timeout=30) == 3
    with pytest.raises(TaskFailedError, match="full"):
        own.tasks.states.delay().get(timeout=30)


def test_a_record_is_read_or_refused_in_a_sentence(own: Own) -> None:
    sent = [own.tasks.add.delay(2), own.tasks.states.delay()]
    wait_idle(own)

    async def records() -> list[Any]:
        return [await own.broker.get_task_status(task_id) for task_id in (*ids, "nobody")]

    ids = [result.id for result in sent]
    if kind_of(own) in UNREAD:
        with pytest.raises(HiveError, match=UNREAD[kind_of(own)]):
            asyncio.run(records())
        return
    done, failed, unknown = asyncio.run(records())
    assert (done.status, done.result, done.task_type) == ("completed", 3, "own.add")
    assert (failed.status, failed.error) == ("failed", '{"why": "full"}')
    assert unknown is None
    assert asyncio.run(own.broker.retry_task(failed.task_id)) is True
    wait_idle(own)
    assert asyncio.run(own.broker.get_task_status(failed.task_id)).status == "failed"
    assert asyncio.run(own.broker.update_task_status("outside", "failed", error="no")) is True
    outside = asyncio.run(own.broker.get_task_status("outside"))
    assert (outside.status, outside.error) == ("failed", "no")


def test_a_dead_letter_is_sent_again(own: Own) -> None:
    letters = DeadLetters(own.app)
    sent = own.tasks.dies.delay()
    wait_until(lambda: letters.count() == 1, what="it is dead")
    assert TaskRecords(own.app).read(sent.id).status == "dead"  # type: ignore[union-attr]
    assert letters.retry(sent.id) is True
    wait_until(lambda: letters.count() == 1, what="it died again")
    assert letters.retry_all() == 1
    wait_until(lambda: letters.count() == 1, what="and again")
    assert letters.purge_all() == 1


def test_a_command_runs_a_task(own: Own) -> None:
    if kind_of(own) != "file":
        return
    assert own.run("run", "own.silent", "5", code=0).splitlines()[0] == "5"
    assert '{"why": "full"}' in own.run("run", "own.states", code=1)


# -- what is refused


def test_what_needs_results_is_refused_before_anything_is_sent(unread: Own) -> None:
    broker = unread.broker
    why = "keeps a result in the memory" if kind_of(unread) == "memory" else UNREAD[kind_of(unread)]
    call = {"a": 1}
    for ask in (
        lambda: broker.enqueue_task("add_numbers", call, task_id="mine"),
        lambda: broker.update_task_status("mine", "running"),
        lambda: broker.retry_task("mine"),
    ):
        with pytest.raises(HiveError, match=why) as caught:
            asyncio.run(ask())
        assert caught.value.message.count("\n") == 0
    skill = ParallelSkill(broker)
    told = json.loads(asyncio.run(skill.parallel_execute("add", '["add 1 and 2"]', wait_timeout=0)))
    assert why in told["error"]
    assert why in unread.run("run", "own.add", "1", code=1)
    assert unread.client.redis.hlen(unread.client.key("entries")) == 0
    # What nobody asks for by its id is sent.
    task_id = asyncio.run(broker.enqueue_task("add_numbers", call))
    waiting = asyncio.run(broker.get_task_status(task_id))
    assert waiting is not None
    assert waiting.status == "pending"


def test_a_backend_that_cannot_be_made_is_named(broker: BrokerServer, tmp_path: Path) -> None:
    for own in own_application("no-such", broker, tmp_path):
        with pytest.raises(HiveError, match=r"result backend cannot be used \(.*no-such"):
            asyncio.run(own.broker.update_task_status("mine", "running"))
        assert "result backend cannot be used" in own.run("run", "own.add", "1", code=1)
        for items in ([1], iter([1])):
            with pytest.raises(HiveError, match=r"result backend cannot be used \(.*no-such"):
                hive.map(own.tasks.add, items, app=own.app)
        with pytest.raises(HiveError, match=r"nothing was sent"):
            asyncio.run(own.broker.enqueue_task("add_numbers", {"a": 1}))
        answer = asyncio.run(ParallelSkill(own.broker).map_reduce("summarize", '["A. B."]'))
        assert "result backend cannot be used" in json.loads(answer)["error"]
        assert not list(own.client.redis.scan_iter("venom:job:*"))


def test_a_backend_that_is_away_is_named(broker: BrokerServer, tmp_path: Path) -> None:
    for own in own_application("gone", broker, tmp_path):
        with pytest.raises(HiveError, match=r"result backend redis://.* cannot be asked") as caught:
            asyncio.run(own.broker.get_task_status("mine"))
        assert "secret" not in caught.value.message
