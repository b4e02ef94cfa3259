"""What an older release left in the broker goes on under this one: `tests/upgrade` has the
recordings, and what is in them.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from celery.result import GroupResult

import hive
from hive.broker.ledger.account import Ledger
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.ledger.records import TaskStatus
from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from hive.errors import DeadLetterError
from tests.docs.keys import documented_keys
from tests.harness import BrokerServer, WorkerProcess, server_binary, wait_until
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.test_cli import Cli
from tests.integration.test_nexus import Nexus
from tests.upgrade.database import load

pytestmark = pytest.mark.slow

RECORDINGS = sorted((REPOSITORY / "tests/upgrade").glob("*.redis"))
QUEUES = ("venom:tasks:high", "venom:tasks:background", "films")
DEAD = ("dead-told", "dead-untold")
WAITED = {
    *(
        f"{queue}{priority}"
        for queue in ("high", "background", "own")
        for priority in ("", "-0", "-9")
    ),
    *("skill", "required", "pinned", "placed", "near", "near-too", "assigned", "zombie"),
    *("later", "overdue", "plain", "plain-later"),
}
"""Each returns its own name, by which it was sent."""
HELD = {"reserved", "parent"}
"""They ran when their node was killed."""
CLAIMED = ("claim", "after")
"""Two with one idempotent key; the first ran, too."""
IN_THE_MIDDLE = {"parent-child", "chord-2", "chord-body", "group-2", "chain-1", "chain-2", "retry"}
ITEMS = {f"halfway {number}" for number in range(4, 8)}
# Beginnings of the names of keys that stay, or stay as long as a node does.
PERMANENT = (
    *("venom:counters", "venom:account", "venom:format", "venom:lease:foreman", "venom:beats"),
    *("venom:epochs", "venom:incarnations:", "venom:requirements", "_kombu.binding"),
    *("venom:processes", "venom:heard_since"),
)


class Upgraded:
    """A broker with a recording in it, and nodes and a nexus of this release at work on it. Close
    it, whatever happened.
    """

    def __init__(self, directory: Path, server: BrokerServer, recording: Path) -> None:
        self.directory = directory
        self.server = server
        self.ran_file = directory / "ran"
        self.ran_file.touch()
        self.redis = server.client()
        load(recording, self.redis)
        (names,) = (
            line for line in recording.read_text().splitlines() if line.startswith("# names ")
        )
        self.names: dict[str, str] = json.loads(names.removeprefix("# names "))
        self.account = self.redis.hgetall("venom:account") or self.redis.hgetall("venom:audit")
        self.leader = self.redis.hget("venom:lease:foreman", "holder")
        self.cluster = Cluster(directory, server=server)
        self.app = self.cluster.app
        self.broker = hive.MessageBroker(self.app)
        self.ledger = Ledger(client_of(self.app))
        self.nodes = NodeTable(client_of(self.app))
        self.known = self.nodes.read()  # those of the recording, if they beat in the last day
        self.letters = DeadLetters(self.app)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With a nexus and two spores; one of them has the name of one that was killed."""
        # A recording is older with each day.
        nexus = Nexus(self.directory, self.server, HIVE_DEAD_LETTERS_DAYS="0")
        try:
            self.spore("home")
            self.spore("new", HIVE_NODE_LABELS="disk=ssd")
            yield
        finally:
            nexus.process.kill()

    def spore(self, name: str, **environment: str) -> None:
        spore = WorkerProcess.celery(
            self.directory,
            name,
            app="tests.upgrade.app",
            env={
                **self.server.environment,
                "PYTHONPATH": str(REPOSITORY),
                "UPGRADE_RAN": str(self.ran_file),
                **environment,
            },
            options=("-Q", ",".join(QUEUES)),
        )
        self.cluster.spores.append(spore)

    def work_off(self) -> None:
        """Wait until nothing is left but what waits for people, or for the year 2100."""
        wait_until(lambda: self.unfinished() == (1, 0, len(DEAD)), 60, "all is done")

    def unfinished(self) -> tuple[int, int, int]:
        stats = asyncio.run(self.broker.get_queue_stats())
        return stats["tasks_pending"], stats["tasks_running"], stats["tasks_dead"]

    def ran(self) -> Counter[str]:
        return Counter(self.ran_file.read_text().splitlines())

    def state(self, task_id: str) -> str:
        return str(self.app.AsyncResult(task_id).state)

    def status(self, task_id: str) -> TaskStatus:
        status = asyncio.run(self.broker.get_task_status(task_id))
        assert status is not None, f"{task_id} is known"
        return status

    def retry_the_dead(self) -> None:
        for name in DEAD:
            self.letters.retry(name)
            assert self.app.AsyncResult(name).get(timeout=30) == name

    def revoke_the_far(self) -> None:
        self.app.control.revoke("far")
        with pytest.raises(TaskRevokedError):
            self.app.AsyncResult("far").get(timeout=30)

    def close(self) -> None:
        self.cluster.close()
        self.redis.close()


@pytest.fixture(scope="module", params=["the tests' own", "redis-server"])
def binary(request: pytest.FixtureRequest) -> str:
    """Valkey and Redis, where both are there."""
    own, found = server_binary(), shutil.which(request.param)
    if request.param != "redis-server":
        return own
    if found is None or Path(found).resolve() == Path(own).resolve():
        pytest.skip("no other server is on PATH")
    return found


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda file: file.stem)
def upgraded(
    request: pytest.FixtureRequest, binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgraded]:
    directory = tmp_path_factory.mktemp("upgrade")
    server = BrokerServer(directory / "broker", binary=binary).start()
    try:
        with closing(Upgraded(directory, server, request.param)) as upgraded, upgraded.at_work():
            upgraded.work_off()
            yield upgraded
    finally:
        server.kill()


def test_every_task_goes_on_and_runs_once(upgraded: Upgraded) -> None:
    expected = WAITED | HELD | IN_THE_MIDDLE | ITEMS
    ran = {name: n for name, n in upgraded.ran().items() if name not in (*DEAD, *CLAIMED)}
    assert ran == dict.fromkeys(expected, 1)
    for name in WAITED | HELD:
        assert upgraded.app.AsyncResult(name).get(timeout=10) == name
    assert upgraded.app.AsyncResult("retry").get(timeout=10) == 1


def test_tasks_run_where_they_have_to_and_know_their_past(upgraded: Upgraded) -> None:
    assert upgraded.status("required").assigned_node == "new@h"
    assert upgraded.status("pinned").assigned_node == "home@h"
    for name in ("reserved", "zombie"):
        assert upgraded.status(name).attempt == 2, f"{name}: one delivery died before"
    high = upgraded.status("high-9")
    assert (high.priority, high.attempt) == (9, 1)
    assert high.created_at is not None
    assert high.started_at is not None
    assert high.created_at < high.started_at


def test_what_began_once_is_not_begun_again(upgraded: Upgraded) -> None:
    assert not upgraded.ran()["begun"]
    assert int(upgraded.redis.hget("venom:counters", "dropped") or 0) == 1


def test_results_are_read(upgraded: Upgraded) -> None:
    succeeded, failed = upgraded.status("succeeded"), upgraded.status("failed")
    assert (succeeded.status, succeeded.result) == ("completed", "succeeded")
    assert succeeded.assigned_node in ("home@h", "gone@h")
    assert succeeded.created_at is not None
    assert (failed.status, failed.error) == ("failed", "ValueError: failed")


def test_a_revoked_task_does_not_run(upgraded: Upgraded) -> None:
    for name in ("revoked", "revoked-later"):
        assert upgraded.state(name) == states.REVOKED
    assert upgraded.status("far").status == "pending"
    upgraded.revoke_the_far()
    assert not {"revoked", "revoked-later", "far"} & upgraded.ran().keys()


def test_an_idempotent_key_keeps_its_result(upgraded: Upgraded) -> None:
    assert upgraded.app.AsyncResult("second").get(timeout=30) == "what first returned"
    assert not {"first", "second"} & upgraded.ran().keys()
    (one,) = (name for name in CLAIMED for _ in range(upgraded.ran()[name]))
    for name in CLAIMED:
        assert upgraded.app.AsyncResult(name).get(timeout=30) == f"what {one} returned"


def test_canvases_go_on(upgraded: Upgraded) -> None:
    assert upgraded.app.AsyncResult("chord-body").get(timeout=10) == 1 + 2
    assert upgraded.app.AsyncResult("chain").get(timeout=10) == 1 + 10 + 100
    group = GroupResult.restore(upgraded.names["group"], app=upgraded.app)
    assert group.get(timeout=10) == [1, 2]


def test_a_job_goes_on_where_it_was(upgraded: Upgraded) -> None:
    result = hive.job(upgraded.names["halfway"], app=upgraded.app).result(30)
    assert (result.complete, result.error, result.value) == (True, None, sum(range(8)))
    assert [(outcome.index, outcome.value) for outcome in result.outcomes] == [
        (number, number) for number in range(8)
    ]
    assert [outcome.attempts for outcome in result.outcomes] == [1] * 8, (
        "of its node's end nobody knows"
    )


def test_a_job_whose_feeder_is_gone_ends_with_what_it_got(upgraded: Upgraded) -> None:
    result = hive.job(upgraded.names["fed"], app=upgraded.app).result(30)
    assert (result.complete, result.value) == (False, [0, 1, 2, 3])
    assert result.error is not None
    assert "The process that fed the items is gone" in result.error


def test_a_job_that_has_ended_is_read_by_its_id(upgraded: Upgraded) -> None:
    result = hive.job(upgraded.names["ended"], app=upgraded.app).result(30)
    assert (result.complete, result.error, result.value) == (True, None, sum(range(8)))
    assert [outcome.value for outcome in result.outcomes] == list(range(8))


def test_nodes_are_known(upgraded: Upgraded) -> None:
    assert not any(node.online for node in upgraded.known.values())
    online = {name for name, node in upgraded.nodes.read().items() if node.online}
    assert online == {"home@h", "new@h"}
    assert upgraded.redis.hget("venom:lease:foreman", "holder") not in (None, upgraded.leader)


def test_what_the_dead_held_is_no_zombie(upgraded: Upgraded) -> None:
    """However long ago they died; the one that was found before is still told of."""
    assert asyncio.run(upgraded.broker.detect_zombie_tasks()) == ["zombie"]


def test_the_alarm_and_the_marks_are_taken_over(upgraded: Upgraded) -> None:
    """Until version 0.2 their key was `venom:audit`."""
    recorded = json.loads(upgraded.account[b"alarm"])

    def alarm() -> dict[str, Any]:
        standing = upgraded.ledger.alarm()
        assert standing is not None
        return standing.model_dump()

    assert recorded["went_back"] == alarm()["went_back"]
    # The new watchdog counts a loss once it has seen it twice.
    wait_until(lambda: alarm() == recorded, what="it tells all that it told before")
    mark, at = upgraded.ledger.mark()
    assert mark > int(upgraded.account[b"mark"])
    assert at * 1000 > int(upgraded.account[b"at"])
    assert not upgraded.redis.exists("venom:audit")


def test_dead_letters_are_listed_told_and_sent_again(upgraded: Upgraded) -> None:
    letters = {letter.task_id: letter for letter in upgraded.letters.page(10)}
    assert letters.keys() == set(DEAD)
    for name, letter in letters.items():
        assert (letter.task, letter.args, letter.deaths) == ("tests.upgrade.app.dies", [name], 2)
        assert [death.node[-2:] for death in letter.history] == ["@h", "@h"]
        with pytest.raises(DeadLetterError):
            upgraded.app.AsyncResult(name).get(timeout=10)
    upgraded.retry_the_dead()
    assert [upgraded.ran()[name] for name in DEAD] == [1, 1]


def test_in_the_end_the_account_balances_and_nothing_is_left_over(upgraded: Upgraded) -> None:
    upgraded.retry_the_dead()
    upgraded.revoke_the_far()
    wait_until(lambda: upgraded.unfinished() == (0, 0, 0), what="all is done")
    account = upgraded.ledger.look().account
    assert (account.missing, account.stranded, account.entries) == (1, 0, 0)
    assert upgraded.ledger.settle() == (0, 1)
    hive_account = Cli(upgraded.server.environment, upgraded.directory)("account", "--json")
    told = json.loads(hive_account.stdout)
    assert (told["missing"], told["stranded"], told["alarm"]) == (0, 0, None)
    assert told["accepted"] == told["done"] + told["written_off"]
    with suppress(AssertionError):
        wait_until(lambda: not leftovers(upgraded), 20, "the last sweep")
    assert leftovers(upgraded) == []


def leftovers(upgraded: Upgraded) -> list[str]:
    """Keys that the page does not know, and such as would stay for ever and should not."""
    known = documented_keys((REPOSITORY / "docs/keys.md").read_text())
    kinds = {raw.decode(): upgraded.redis.type(raw).decode() for raw in upgraded.redis.keys("*")}
    unknown = [
        key
        for key, kind in kinds.items()
        if not any(kind in row.types and row.matches(key) for row in known)
    ]
    lasting = [
        key for key in kinds if not key.startswith(PERMANENT) and upgraded.redis.ttl(key) == -1
    ]
    return unknown + lasting
