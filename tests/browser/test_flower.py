"""What somebody sees who opens `hive flower` in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import Cluster
from tests.integration.flowers import FlowerProcess
from tests.integration.jobs import add_numbers, complain, wait_for
from tests.integration.secured import AclServer, Certificates, TlsServer

pytestmark = pytest.mark.timeout(240)  # of which a hive and a Flower take a part to start

PURGED_AFTER = 12
OWN = f"purge_offline_workers = {PURGED_AFTER}\n"
SLOTS = 2
BACKGROUND, HIGH = "venom:tasks:background", "venom:tasks:high"
Open = Callable[..., Page]


class Hive:
    """A broker, spores, and a Flower that has heard of them."""

    def __init__(self, cluster: Cluster, flower: FlowerProcess, *names: str) -> None:
        self.cluster = cluster
        self.flower = flower
        self.spores = {name: cluster.spawn(name, concurrency=SLOTS) for name in names}
        cluster.wait_online(*names)
        self._run = 0
        # Spores tell of their tasks once Flower has asked them to.
        for name in names:
            wait_until(lambda name=name: self._is_told_of(name), what=f"{name} tells of its tasks")

    def _is_told_of(self, name: str) -> bool:
        task = self.send(add_numbers, 1, 2, requirements={"node": f"{name}@h"})
        self.cluster.app.AsyncResult(task).get(timeout=30)
        return self.flower.states().get(task) == "SUCCESS"

    def send(self, task: Any, *arguments: object, **options: object) -> str:
        """Send a task. Returns: its id."""
        return str(self.cluster.app.send_task(task.name, arguments, **options).id)

    @contextmanager
    def busy(self, directory: Path) -> Iterator[list[str]]:
        """Every slot is taken meanwhile; the ids of the tasks that have them."""
        self._run += 1
        begun, go = (directory / f"{word}-{self._run}" for word in ("begun", "go"))
        slots = SLOTS * len(self.spores)
        tasks = [self.send(wait_for, str(begun), str(go)) for _ in range(slots)]
        try:
            wait_until(
                lambda: begun.exists() and len(begun.read_text()) == slots, what="all are busy"
            )
            yield tasks
        finally:
            go.touch()


@contextmanager
def hive_on(server: BrokerServer, directory: Path, *names: str) -> Iterator[Hive]:
    own = directory / "own.py"
    own.write_text(OWN)
    where = ("REDIS_HOST", "REDIS_PORT", "REDIS_DB")
    settings = {n.lower(): value for n, value in server.environment.items() if n not in where}
    server.start()
    cluster = flower = None
    try:
        cluster = Cluster(directory, server=server, **settings)
        flower = FlowerProcess(directory, server.environment, "--config", str(own))
        yield Hive(cluster, flower, *names)
        assert flower.process.stop() == 0
        assert "Traceback" not in flower.process.output()
    finally:
        if flower is not None:
            flower.process.kill()
        if cluster is not None:
            cluster.close()
        server.kill()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    directory = tmp_path_factory.mktemp("plain")
    with hive_on(BrokerServer(directory / "broker", durable=False), directory, "a", "b") as hive:
        yield hive


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    directory = tmp_path_factory.mktemp("tls")
    server = TlsServer(directory / "broker", Certificates(tmp_path_factory.mktemp("crt")))
    with hive_on(server, directory, "a") as hive:
        yield hive


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    directory = tmp_path_factory.mktemp("acl")
    server = AclServer(directory / "broker")
    with hive_on(server, directory, "a") as hive:
        yield hive
        assert server.refused() == set()


def row(page: Page, name: str) -> list[str]:
    """The cells of the row with that name: messages, unacked, ready, consumers."""
    found = page.locator("#queue-table tbody tr").filter(
        has=page.locator("td:first-child", has_text=re.compile(rf"^{re.escape(name)}( –|$)"))
    )
    expect(found).to_have_count(1)
    return [text.strip() for text in found.locator("td").all_inner_texts()[1:5]]


def open_at(opened: Open, hive: Hive, path: str, **more: int) -> Page:
    return opened(hive.flower.url + path, password=hive.flower.password, **more)


def worker_row(page: Page, name: str) -> object:
    return page.locator("#workers-table tbody tr").filter(has_text=f"{name}@h")


def sees_workers(opened: Open, hive: Hive) -> None:
    page = open_at(opened, hive, "workers")
    for name in hive.spores:
        expect(worker_row(page, name)).to_contain_text("Online")
    expect(page.locator("#workers-online")).to_have_text(str(len(hive.spores)))


def sees_tasks(opened: Open, hive: Hive) -> None:
    done, failed = hive.send(add_numbers, 40, 2), hive.send(complain, "no more <b>bees</b>")
    wait_until(
        lambda: {"SUCCESS", "FAILURE"} <= {hive.flower.states().get(t) for t in (done, failed)},
        what="both are seen",
    )
    page = open_at(opened, hive, "tasks")
    for task, state in ((done, "SUCCESS"), (failed, "FAILURE")):
        shown = page.locator("#tasks-table tbody tr").filter(has_text=task)
        expect(shown).to_contain_text(state)
    page.goto(f"{hive.flower.url}task/{done}")
    expect(page.locator("#task-page")).to_contain_text("42")
    page.goto(f"{hive.flower.url}task/{failed}")
    traceback = page.locator("#task-page .detail-row").filter(has_text="Traceback")
    expect(traceback).to_contain_text("ValueError: no more <b>bees</b>")


def sees_depths(opened: Open, hive: Hive, directory: Path) -> None:
    nodes, slots = str(len(hive.spores)), str(SLOTS * len(hive.spores))
    with hive.busy(directory):
        waiting = [
            hive.send(add_numbers, 1, queue=BACKGROUND, priority=priority)
            for priority in (0, 3, 5, 5, 10)
        ]
        waiting += [hive.send(add_numbers, 1, queue=HIGH, priority=number) for number in (1, 9)]
        waiting.append(hive.send(add_numbers, 1, requirements={"cpus": 0.25}))
        waiting.append(hive.send(add_numbers, 1, requirements={"node": "a@h"}))
        hive.send(add_numbers, 1, countdown=600)
        page = open_at(opened, hive, "broker")
        assert row(page, BACKGROUND) == ["5", "—", "5", nodes]
        assert row(page, HIGH) == ["2", "—", "2", nodes]
        assert row(page, "venom:pin:a@h") == ["1", "—", "1", "1"]
        required = page.locator("#queue-table tr").filter(has_text="requires cpus=0.25")
        expect(required.locator("td").nth(3)).to_have_text("1")
        assert row(page, "(at nodes)") == [slots, slots, "0", nodes]
        assert row(page, "(delayed)")[0] == "1"
        scheme = "rediss" if hive.cluster.settings.redis_tls else "redis"
        shown = page.locator(".broker-url")
        expect(shown).to_have_text(re.compile(rf"^{scheme}://(\w*:\*\*@)?127\.0\.0\.1:"))
    for task in waiting:
        assert hive.cluster.app.AsyncResult(task).get(timeout=30) == 1
    page.reload()
    assert (row(page, BACKGROUND)[0], row(page, HIGH)[0]) == ("0", "0")
    assert row(page, "(at nodes)") == ["0", "0", "0", nodes]


def test_workers_tasks_and_depths_are_shown(opened: Open, plain: Hive, tmp_path: Path) -> None:
    sees_workers(opened, plain)
    sees_tasks(opened, plain)
    sees_depths(opened, plain, tmp_path)


def test_they_are_shown_over_tls(opened: Open, encrypted: Hive, tmp_path: Path) -> None:
    sees_workers(opened, encrypted)
    sees_tasks(opened, encrypted)
    sees_depths(opened, encrypted, tmp_path)


def test_they_are_shown_with_the_user_of_few_rights(
    opened: Open, restricted: Hive, tmp_path: Path
) -> None:
    sees_workers(opened, restricted)
    sees_tasks(opened, restricted)
    sees_depths(opened, restricted, tmp_path)


def test_who_does_not_log_in_sees_nothing(opened: Open, plain: Hive) -> None:
    for password in ("", "a wrong one that is as long as the right one"):
        answer = opened(password=password).request.get(plain.flower.url + "workers")
        assert (answer.status, "a@h" in answer.text()) == (401, False)
    expect(open_at(opened, plain, "").locator("#workers-table")).to_contain_text("a@h")


def test_nothing_can_be_done_where_it_is_read_only(
    opened: Open, plain: Hive, tmp_path: Path
) -> None:
    page = open_at(opened, plain, "worker/a@h")
    expect(page.locator("#workername")).to_have_text("a@h")
    assert page.locator("#worker-shutdown, #worker-pool-restart").count() == 0
    with plain.busy(tmp_path) as tasks:
        wait_until(lambda: plain.flower.states().get(tasks[0]) == "STARTED", what="it is seen")
        page.goto(f"{plain.flower.url}task/{tasks[0]}")
        expect(page.locator("#task-page")).to_contain_text("STARTED")
        assert page.locator("#task-terminate, #task-revoke").count() == 0
        for order in ("worker/shutdown/a@h", f"task/revoke/{tasks[0]}?terminate=true"):
            assert page.request.post(f"{plain.flower.url}api/{order}").status == 403
    assert plain.cluster.app.AsyncResult(tasks[0]).get(timeout=30) == "went on"
    assert plain.spores["a"].process.poll() is None


def test_a_worker_that_was_killed_is_offline_and_then_gone(opened: Open, plain: Hive) -> None:
    page = open_at(opened, plain, "workers")
    expect(worker_row(page, "b")).to_contain_text("Online")
    killed: WorkerProcess = plain.spores.pop("b")
    killed.kill()
    expect(worker_row(page, "b")).to_contain_text("Offline", timeout=20_000)
    expect(worker_row(page, "b")).to_have_count(0, timeout=(PURGED_AFTER + 20) * 1000)
    expect(worker_row(page, "a")).to_contain_text("Online")
