"""An application outside the package adds a policy, duties, a route and a command, and edits
nothing of Hive.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hive
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.broker.nodes.table import NodeTable
from hive.errors import InvalidInputError, SettingsError
from hive.foreman.policy import Policy
from hive.foreman.watch.duties import OWN, duties_of
from hive.foreman.watch.duty import Duty, duty_states
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess, wait_until

SHOP = """
import os, time
from celery import Celery
from starlette.responses import JSONResponse
from starlette.routing import Route
import hive
from hive.foreman.policy import Policy
from hive.foreman.watch.duty import Duty
from hive.nexus.context import nexus_of
from hive.spore.commands import command

class Cheapest(Policy):
    def machine(self, node):
        return float(node.facts.labels["price"])

def look(watch):
    watch.client.redis.incr("shop:looks")

def broken(watch):
    raise LookupError("no stock is known")

async def stock(request):
    return JSONResponse({"looks": int(nexus_of(request).client.redis.get("shop:looks") or 0)})

def slow(request):
    time.sleep(5)
    return JSONResponse({})

@command("RESTOCK")
def restock(state, arguments):
    return {"ok": [state.hostname, arguments["items"]]}

app = Celery("shop")
hive.install(
    app,
    policy=Cheapest(),
    duties=[Duty("shop.broken", broken), Duty("shop.look", look, period=0.5)],
    routes=[Route("/stock", stock), Route("/slow", slow)],
)

@app.task(bind=True)
def where(self):
    return self.request.hostname

@app.task(bind=True)
def dies_once(self, file):
    if not os.path.exists(file):
        open(file, "w").close()
        time.sleep(60)
    return self.request.hostname
"""


class Shop:
    """The application's hive: a broker, its nexus and two spores at different prices."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "shop.py").write_text(SHOP)
        self.server = BrokerServer(directory / "broker").start()
        self.environment = {
            **self.server.environment,
            "PYTHONPATH": str(directory),
            "HIVE_HEARTBEAT_INTERVAL": "0.3",
            "NEXUS_PORT": "0",
            "HIVE_NEXUS_PORT_FILE": str(directory / "port"),
        }
        self.processes: dict[str, WorkerProcess] = {}
        command = (sys.executable, "-m", "hive", "nexus", "--app", "shop:app")
        log = directory / "nexus.log"
        self.nexus = WorkerProcess(log, *command, env=self.environment, cwd=directory)
        for name, price in (("cheap", "1"), ("dear", "5")):
            labelled = {**self.environment, "HIVE_NODE_LABELS": f"price={price}"}
            self.processes[name] = WorkerProcess.celery(directory, name, app="shop", env=labelled)
        self.client = client_of(hive.install(Celery("looks-in"), self.settings))
        table = NodeTable(self.client)
        wait_until(lambda: sum(node.online for node in table.read().values()) == 2)

    @property
    def settings(self) -> Settings:
        return Settings.load(redis_host="127.0.0.1", redis_port=self.server.port)

    def get(self, path: str) -> Any:
        port = int(wait_until(lambda: (self.directory / "port").exists() and self._port()))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", path)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def _port(self) -> str:
        return (self.directory / "port").read_text()

    def python(self, program: str) -> Any:
        """What a program of the shop's prints, as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", f"import json, shop\n{program}"],
            env={**os.environ, **self.environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)

    def hive(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hive", *arguments],
            env={**os.environ, **self.environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def close(self) -> None:
        for process in (self.nexus, *self.processes.values()):
            process.kill()
        self.client.close()
        self.server.kill()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    try:
        yield shop
    finally:
        shop.close()


def test_its_policy_decides_where_its_tasks_go(shop: Shop) -> None:
    found = shop.python("print(json.dumps([shop.where.delay().get(timeout=30) for _ in range(5)]))")
    assert found == ["cheap@h"] * 5


def test_its_route_is_a_page_of_the_nexus_and_its_duty_is_done(shop: Shop) -> None:
    looks = wait_until(lambda: shop.get("/stock")["looks"])
    wait_until(lambda: shop.get("/stock")["looks"] > looks)


def test_its_slow_pages_do_not_hold_up_health(shop: Shop) -> None:
    with ThreadPoolExecutor(60) as threads:
        asked = [threads.submit(shop.get, "/slow") for _ in range(60)]
        time.sleep(1)
        began = time.monotonic()
        assert shop.get("/health")["broker_reachable"]
        assert time.monotonic() - began < 2
        assert [page.result() for page in asked] == [{}] * 60


def test_its_command_is_obeyed_by_every_node(shop: Shop) -> None:
    app = hive.install(Celery("asks"), shop.settings)

    async def restock() -> dict[str, Any]:
        broker = MessageBroker(app)
        try:
            return await broker.broadcast_control("RESTOCK", {"items": 3}, wait_timeout=20)
        finally:
            await broker.disconnect()

    expected = {name: {"ok": [name, 3]} for name in ("cheap@h", "dear@h")}
    assert asyncio.run(restock()) == expected


def test_a_duty_that_fails_is_named_and_hinders_no_other(shop: Shop, tmp_path: Path) -> None:
    told = "the duty shop.broken fails since"
    wait_until(lambda: any(told in fault for fault in shop.get("/health")["failing_duties"]))
    assert shop.get("/health")["status"] == "ok"
    failing = json.loads(shop.hive("status", "--json"))["failing_duties"]
    assert [duty["name"] for duty in failing] == ["shop.broken"]
    assert failing[0]["error"] == "LookupError: no stock is known"
    assert failing[0]["last_success"] is None
    assert "FAILING: the duty shop.broken fails since" in shop.hive("status")
    done = {state.name for state in duty_states(shop.client) if state.last_success}
    hives_own = {duty.name for duty in duties_of(Celery("adds-none"), shop.client)}
    assert {"restore", "account"} < hives_own
    assert done == hives_own | {"shop.look"}
    # And so what a killed node held runs elsewhere.
    began = tmp_path / "began"
    send = f"print(json.dumps(shop.dies_once.delay({str(began)!r}).id))"
    task_id = shop.python(send)
    wait_until(began.exists)
    shop.processes["cheap"].kill()
    get = f"print(json.dumps(shop.app.AsyncResult({task_id!r}).get(timeout=40)))"
    assert shop.python(get) == "dear@h"


# -- what cannot be


class Indifferent(Policy):
    def machine(self, node: Any) -> float:
        return 0.0


def test_what_cannot_be_added_is_refused_in_a_sentence() -> None:
    settings = Settings.load(redis_port=1)
    with pytest.raises(
        InvalidInputError, match=r"made from hive\.foreman\.policy\.Policy, not 'cheap'"
    ):
        hive.install(Celery("one"), settings, policy="cheap")  # type: ignore[arg-type]
    installed = hive.install(Celery("two"), settings)
    with pytest.raises(InvalidInputError, match="give the policy to the first"):
        hive.install(installed, settings, policy=Indifferent())
    for weight in (None, "0.3", -1, float("nan"), float("inf")):
        unweighed = Indifferent()
        unweighed.tasks_weight = weight  # type: ignore[assignment]
        with pytest.raises(InvalidInputError, match="tasks_weight"):
            hive.install(Celery("unweighed"), settings, policy=unweighed)
    for name, act, period in (
        ("two words", print, 0),
        ("surrogate\udcff", print, 0),
        (7, print, 0),
        ("x", None, 0),
        ("x", print, -1),
        ("x", print, "60"),
    ):
        with pytest.raises(InvalidInputError, match="duty"):
            Duty(name, act, period)  # type: ignore[arg-type]


def test_a_duty_or_route_that_cannot_be_is_refused_where_it_is_installed() -> None:
    app, settings = Celery("four"), Settings.load(redis_port=1)
    looks = Duty("looks", print)
    for duties, fault in (
        ([print], "not <built-in function print>"),
        ([Duty("restore", print)], "Two duties are called 'restore'"),
        ([looks, Duty("looks", print)], "Two duties are called 'looks'"),
    ):
        with pytest.raises(InvalidInputError, match=fault):
            hive.install(app, settings, duties=duties)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="not '/stock'"):
        hive.install(app, settings, routes=["/stock"])  # type: ignore[list-item]
    hive.install(app, settings, duties=[looks])
    with pytest.raises(InvalidInputError, match="Two duties are called 'looks'"):
        hive.install(app, duties=[looks])
    assert [duty.name for duty in duties_of(app, client_of(app))] == [*OWN, "looks"]


def test_a_route_with_a_path_that_is_taken_is_refused_at_the_start() -> None:
    from starlette.routing import Route

    from hive.nexus.context import Nexus
    from hive.nexus.routes import application

    app = hive.install(
        Celery("three"), Settings.load(redis_port=1), routes=[Route("/health", print)]
    )
    with pytest.raises(SettingsError, match="have the path /health"):
        application(Nexus(app, client_of(app), None))  # type: ignore[arg-type]


def test_a_page_may_have_a_route_for_each_method() -> None:
    from starlette.routing import Route

    from hive.nexus.context import Nexus
    from hive.nexus.routes import application

    app = hive.install(Celery("five"), Settings.load(redis_port=1))
    app.hive_routes = tuple(Route("/stock", print, methods=[method]) for method in ("GET", "POST"))
    nexus = Nexus(app, client_of(app), None)  # type: ignore[arg-type]
    assert len(application(nexus).routes) == 3
    app.hive_routes += (Route("/stock", print, methods=["PUT", "POST"]),)
    with pytest.raises(SettingsError, match="have the path /stock"):
        application(nexus)


def test_an_install_that_failed_can_be_tried_again() -> None:
    app = Celery("four", broker="amqp://localhost")
    duties = [Duty("again", print)]
    with pytest.raises(SettingsError):
        hive.install(app, Settings.load(redis_port=1), policy=Indifferent(), duties=duties)
    app.conf.broker_url = None
    hive.install(app, Settings.load(redis_port=1), policy=Indifferent(), duties=duties)
    assert [duty.name for duty in duties_of(app, client_of(app))][-1] == "again"
