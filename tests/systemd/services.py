"""Hive's services on the machine, and the programs that use them from here."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult

import hive
from hive.settings import Settings
from tests.systemd.image import VENV
from tests.systemd.machine import Machine, wait_until

HIVE = f"{VENV}/bin/hive"
NEXUS, SPORE, FLOWER = "hive-nexus.service", "hive-spore@spore-1.service", "hive-flower.service"
REDIS = "redis-server.service"
ENV_FILE = "/etc/hive/hive.env"
UNITS = "/etc/systemd/system"
# What a file of settings and a unit's line might each read in their own way.
PASSWORD = 'p#a$s%i %% "w`o;r\\d$HOME-0123456789'
SETTINGS = f"""
REDIS_HOST=127.0.0.1
REDIS_PASSWORD='{PASSWORD.replace(chr(92), chr(92) * 2)}'
HIVE_APP=work:app
HIVE_CONCURRENCY=2
"""
REDIS_SETTINGS = f"""
appendonly yes
appendfsync always
requirepass "{PASSWORD.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"
"""


class Services:
    """Installed by `hive deploy systemd`; a nexus and spores."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        with machine.path("/etc/redis/redis.conf").open("a") as settings:
            settings.write(REDIS_SETTINGS)
        self.systemctl("restart", REDIS)
        machine.path("/srv/hive").mkdir()
        module = machine.path("/srv/hive/work.py")
        module.write_text(Path(__file__).with_name("work.py").read_text())
        self.has_drop_in = False
        self.app = Celery("client")
        hive.install(self.app, Settings.load(redis_host="127.0.0.1", redis_password=PASSWORD))

    def systemctl(self, *arguments: str) -> str:
        return self.machine.run("systemctl", *arguments)

    def deploy(self, *arguments: str) -> dict[str, Any]:
        """What `hive deploy systemd` answers."""
        told = self.machine.run(HIVE, "deploy", "systemd", *arguments, "--json")
        return dict(json.loads(told))

    def at_rest(self, *spores: str, **settings: object) -> None:
        """Broker, nexus and spores (spore-1 by default) are at work, with these settings and no
        drop-in.
        """
        names = spores or ("spore-1",)
        machine = self.machine
        machine.run("sh", "-c", f"rm -rf {UNITS}/hive-*.service.d")
        if not all(self.is_enabled(name) for name in names):
            self.deploy("--spores", ",".join(names))
        more = "".join(f"{name.upper()}={value}\n" for name, value in settings.items())
        old = machine.path(ENV_FILE).read_text()
        machine.path(ENV_FILE).write_text(SETTINGS + more)
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")
        self.systemctl("start", REDIS)
        wanted = [NEXUS, *(f"hive-spore@{name}.service" for name in names)]
        idle = [unit for unit in self.units() if unit not in wanted]
        if idle:
            self.systemctl("disable", "--now", *idle)
        changed = old != SETTINGS + more or self.has_drop_in
        self.systemctl("restart" if changed else "start", *wanted)
        self.has_drop_in = False
        for name in names:
            wait_until(lambda name=name: self.works(f"hive-spore@{name}.service"), name)

    def is_enabled(self, name: str) -> bool:
        return self.machine.path(
            f"{UNITS}/hive.target.wants/hive-spore@{name}.service"
        ).is_symlink()

    def units(self) -> list[str]:
        """Hive's services that are loaded."""
        listed = self.systemctl("list-units", "--all", "--plain", "--no-legend", "hive-*.service")
        return [line.split()[0] for line in listed.splitlines()]

    def drop_in(self, unit: str, text: str) -> None:
        """Add lines to the section [Service] of a unit, and start it again."""
        folder = self.machine.path(f"{UNITS}/{unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        self.has_drop_in = True
        self.systemctl("daemon-reload")
        self.systemctl("restart", unit)

    def status(self, unit: str) -> str:
        """What the service says that it does."""
        return self.machine.show(unit, "StatusText")

    def works(self, unit: str) -> bool:
        return self.status(unit).startswith("takes work")

    def worker(self, unit: str) -> int:
        """The pid of a spore's Celery worker."""
        listed = self.machine.done("pgrep", "-P", str(self.machine.main_pid(unit))).stdout.split()
        return int(listed[0]) if listed else 0

    def shows_flower(self) -> bool:
        """Whether Flower's page knows the spore."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:5555/", timeout=10) as page:
                return b"spore-1@" in page.read()
        except OSError:
            return False

    def send(self, task: str, *arguments: object, **options: object) -> AsyncResult[Any]:
        return self.app.send_task(f"work.{task}", arguments, **options)

    def runs(self, label: str) -> list[str]:
        """The lines that the runs of a task have left."""
        path = self.machine.path(f"/var/lib/hive/runs/{label}")
        return path.read_text().split() if path.exists() else []

    def begun(self, label: str) -> Callable[[], bool]:
        return lambda: "start" in self.runs(label)

    def hive(self, *arguments: str) -> Any:
        """What a command there answers in JSON."""
        asked = (f"HIVE_ENV_FILE={ENV_FILE}", HIVE, *arguments, "--json")
        return json.loads(self.machine.run("env", *asked))

    def node(self, name: str) -> dict[str, Any]:
        """A node that is online, as `hive node list` shows it; {} while it is not."""
        nodes = self.hive("node", "list")
        found = (one for one in nodes if one["node_name"] == name and one["is_online"])
        return next(found, {})
