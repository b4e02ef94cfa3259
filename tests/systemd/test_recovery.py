"""What is killed or frozen is back by itself; what it held is done, and run once more at most."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest

from tests.systemd.machine import PATIENCE, wait_until
from tests.systemd.services import FLOWER, NEXUS, REDIS, SPORE, Services


def is_back(services: Services, unit: str, before: int) -> None:
    """Another main process than before is at work."""
    show = services.machine.main_pid
    wait_until(lambda: show(unit) not in (0, before), f"{unit} is started again")
    wait_until(lambda: services.machine.show(unit, "ActiveState") == "active", unit)


def test_a_nexus_that_is_killed_again_and_again_is_back(services: Services) -> None:
    """Six times within seconds: by default systemd would give up after five."""
    show = services.machine.main_pid
    before = 0
    for _ in range(6):
        before = wait_until(lambda before=before: (pid := show(NEXUS)) != before and pid, "again")
        services.machine.kill(before)
    is_back(services, NEXUS, before)
    wait_until(lambda: services.works(NEXUS), "it watches over the cluster")
    with urllib.request.urlopen("http://127.0.0.1:8787/health", timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"


def test_a_killed_flower_is_back(services: Services) -> None:
    services.systemctl("start", FLOWER)
    wait_until(services.shows_flower, "its page is there")
    before = services.machine.main_pid(FLOWER)
    services.machine.kill(before)
    is_back(services, FLOWER, before)
    wait_until(services.shows_flower, "its page is there again")


@pytest.mark.parametrize("whom", ["supervisor", "worker"])
def test_a_killed_spore_is_back_and_what_it_held_is_done(services: Services, whom: str) -> None:
    labels = [f"killed-{whom}-{number}" for number in range(4)]
    results = [services.send("hold", label, 2.0) for label in labels]
    wait_until(services.begun(labels[0]), "the first one runs")
    before = services.machine.main_pid(SPORE)
    services.machine.kill(before if whom == "supervisor" else services.worker(SPORE))
    if whom == "supervisor":
        is_back(services, SPORE, before)
    for result in results:
        result.get(timeout=PATIENCE)
    runs = [services.runs(label) for label in labels]
    assert all(lines.count("start") <= 2 and lines.count("end") == 1 for lines in runs)
    if whom == "worker":
        assert services.machine.main_pid(SPORE) == before


def test_a_killed_broker_is_back_and_nothing_runs_twice(services: Services) -> None:
    labels = [f"broker-{number}" for number in range(6)]
    results = [services.send("hold", label, 2.0) for label in labels]
    wait_until(services.begun(labels[0]), "the first one runs")
    before = {unit: services.machine.main_pid(unit) for unit in (NEXUS, SPORE)}
    services.machine.kill(services.machine.main_pid(REDIS))
    for result in results:
        result.get(timeout=PATIENCE)
    assert [services.runs(label) for label in labels] == [["start", "end"]] * 6
    assert before == {unit: services.machine.main_pid(unit) for unit in before}


def test_what_is_frozen_is_started_again(services: Services) -> None:
    services.at_rest("spore-1", "spore-2", hive_drain_timeout=1)
    frozen = {name: f"hive-spore@{name}.service" for name in ("spore-1", "spore-2")}
    before = {name: services.machine.main_pid(unit) for name, unit in frozen.items()}
    worker = services.worker(frozen["spore-2"])
    host = services.node("spore-1")["host"]
    results = {
        name: services.send("hold", f"frozen-{name}", 3.0, requirements={"node": f"{name}@{host}"})
        for name in frozen
    }
    for name in frozen:
        wait_until(services.begun(f"frozen-{name}"), f"it runs on {name}")
    services.machine.kill(before["spore-1"], signal.SIGSTOP)
    services.machine.kill(worker, signal.SIGSTOP)
    later = {
        name: services.send("hold", f"later-{name}", 0.1, requirements={"node": f"{name}@{host}"})
        for name in frozen
    }
    is_back(services, frozen["spore-1"], before["spore-1"])
    for result in (*results.values(), *later.values()):
        result.get(timeout=PATIENCE)
    assert services.machine.main_pid(frozen["spore-2"]) == before["spore-2"]
    assert services.worker(frozen["spore-2"]) != worker
    for name in frozen:
        assert services.runs(f"frozen-{name}").count("start") <= 2
        assert services.runs(f"later-{name}") == ["start", "end"]
    assert "watchdog" in services.machine.journal(frozen["spore-1"])
