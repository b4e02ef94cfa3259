"""Tasks that end otherwise than by a value or an Exception: by `sys.exit`, by a signal.

One that calls `sys.exit` has ended: it runs once, and its code is its outcome. One whose process
died runs again, and its dead letter says of what.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.canvas import Signature
from celery.exceptions import TimeLimitExceeded

import hive
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import client_of
from hive.errors import DeadLetterError, TaskExitError
from tests.harness import wait_until
from tests.integration import ends
from tests.integration.cluster import Cluster
from tests.integration.map_cluster import MapCluster

TASKS = ("-I", "tests.integration.ends")
WELL = ["0", "nothing", "click"]
BADLY = {
    "3": "The task exited with code 3 (SystemExit).",
    "text": "The task exited with code 1 (SystemExit): cannot go on",
    "own": "The task exited with code 4 (SystemExit).",
    "click failed": "The task exited with code 1 (SystemExit).",
    "argparse": "The task exited with code 2 (SystemExit).",
    "interrupt": "The task raised KeyboardInterrupt.",
    "generator": "The task raised GeneratorExit.",
    "cancelled": "The task raised CancelledError.",
    "halt": "The task raised Halt: here",
}


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("ends"), hive_max_retries=1)
    try:
        cluster.spawn("a", options=(*TASKS, "--pool", request.param))
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


def ended(task: Any, log: Path, how: str) -> Any:
    """What became of it, once it has run exactly once."""
    sent: Signature[Any] = task.s(str(log), how)
    try:
        return sent.delay().get(timeout=30)
    except TaskExitError as error:
        return error.message
    finally:
        assert log.read_text() == "x", f"it ran {len(log.read_text())} times"


@pytest.mark.parametrize("how", WELL)
def test_a_task_that_exits_without_a_code_has_succeeded(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    assert ended(ends.leaves, tmp_path / "log", how) is None


@pytest.mark.parametrize("how", BADLY)
def test_a_task_that_exits_with_a_code_has_failed_with_it(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    assert ended(ends.leaves, tmp_path / "log", how) == BADLY[how]


@pytest.mark.parametrize("how", ["0", "3"])
def test_so_it_is_with_a_task_class_that_calls_it_otherwise(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    assert ended(ends.leaves_within, tmp_path / "log", how) == BADLY.get(how)


def test_an_exit_is_no_exception_that_is_retried(cluster: Cluster, tmp_path: Path) -> None:
    assert ended(ends.leaves_and_retries, tmp_path / "log", "3") == BADLY["3"]


def test_a_task_that_calls_another_as_a_function_hears_of_its_exit(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert ended(ends.hears_another_exit, tmp_path / "log", "3") == "it exited with 3"


@pytest.mark.parametrize("kind", ends.RAISED)
def test_what_a_task_raises_fails_it_and_not_its_worker(
    cluster: Cluster, tmp_path: Path, kind: str
) -> None:
    """Also where Celery would think that the process was out of memory, lost, or killed."""
    log = tmp_path / "log"
    with pytest.raises(ends.RAISED[kind], match="as another task did"):
        ends.raises.delay(str(log), kind).get(timeout=30)
    assert ended(ends.leaves, tmp_path / "next", "0") is None
    assert log.read_text() == "x"
    client = client_of(cluster.app)
    wait_until(lambda: not client.redis.hlen("venom:entries"), what="all is acknowledged")


def test_a_chain_goes_on_after_an_exit_without_a_code(cluster: Cluster, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    chained = ends.leaves.si(log, "click") | ends.leaves.si(log, "went on")
    assert chained.delay().get(timeout=30) == "went on"


def test_an_item_that_exits_has_its_outcome(cluster: Cluster) -> None:
    job = hive.map(ends.leaves_as_item, [*WELL, *BADLY, "last"], app=cluster.app)
    outcomes = job.result(30).outcomes
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3 + ["failed"] * 9 + ["ok"]
    assert [outcome.value for outcome in outcomes[:3]] == [None] * 3
    assert [outcome.attempts for outcome in outcomes] == [1] * 13
    assert str(outcomes[3].error) == "SystemExit: 3"


@pytest.mark.parametrize("how", ["0", "3"])
def test_a_reduce_that_exits_ends_its_job(cluster: Cluster, how: str) -> None:
    job = hive.map(ends.leaves_as_item, [f"then {how}"], ends.leaves_as_reduce, app=cluster.app)
    result = job.result(30)
    assert result.value is None
    assert BADLY.get(how, "") in str(result.error)
    assert (result.error is None) == (how == "0")


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    """A node that tries nothing again."""
    cluster = MapCluster(tmp_path_factory.mktemp("dying"), hive_max_retries=0)
    try:
        cluster.spawn("a", concurrency=1, options=TASKS)
        cluster.wait_online("a")
        with cluster.watchdog():
            yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("task", "arguments", "reason"),
    [
        (ends.dies, (signal.SIGKILL,), "its process died of SIGKILL"),
        (ends.dies, (signal.SIGSEGV,), "its process died of SIGSEGV"),
        (ends.dies, (signal.SIGABRT,), "its process died of SIGABRT"),
        (ends.dies, (signal.SIGTERM,), "its process died of SIGTERM"),
        (ends.ends, (3,), "its process ended with exit code 3"),
        (ends.ends, (0,), "its process ended with exit code 0"),
        (ends.rejects, (), "it was rejected by the task: no use"),
        (ends.overruns, (), "it ran longer than its hard time limit (1 s), and was killed"),
    ],
    ids=["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "_exit(3)", "_exit(0)", "Reject", "limit"],
)
def test_a_dead_letter_says_of_what_its_process_died(
    dying: MapCluster, task: Any, arguments: tuple[int, ...], reason: str
) -> None:
    result = dying.app.send_task(task.name, arguments)
    with pytest.raises((DeadLetterError, TimeLimitExceeded)) as told:
        result.get(timeout=30)
    if told.type is DeadLetterError:
        assert f"({reason})" in str(told.value)
    letters = DeadLetters(dying.app)
    letter = wait_until(lambda: letters.find(result.id), what="it is a dead letter")
    assert letter.reason == reason
    assert [death.reason for death in letter.history] == [reason]


def test_an_item_that_kills_says_of_what_its_process_died(dying: MapCluster) -> None:
    [outcome] = hive.map(ends.dies, [signal.SIGSEGV], app=dying.app).result(30).outcomes
    assert (outcome.status, outcome.attempts) == ("failed", 1)
    assert outcome.error == (
        "killed its worker: the process that ran it ended 1 times (its process died of SIGSEGV)"
    )
