"""A hive whose every process can be killed: broker, nexus, and spores of both kinds, `hive spore`
and plain `celery worker`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from hive.broker.link.client import client_of
from tests.chaos.ledger import Ledger
from tests.harness import WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY, Cluster

APP = "tests.chaos.app"
DEAD = re.compile(r"event=node_(?:dead|silent) incarnation=(\S+)")
ALARM = re.compile(r"event=conservation_alarm.*")


class Spore:
    """A started spore; supervised: under `hive spore`, whose child the worker is."""

    def __init__(self, name: str, process: WorkerProcess, *, supervised: bool) -> None:
        self.name = name
        self.process = process
        self.supervised = supervised

    @property
    def node(self) -> str:
        return f"{self.name}@h"

    def worker(self) -> psutil.Process | None:
        """Its `celery worker`; None while there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return next(iter(process.children()), None) if self.supervised else process
        return None

    def pool(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = self.worker()
            return worker.children() if worker else []
        return []

    def signal(self, number: int) -> None:
        """To all its processes."""
        worker = self.worker()
        self.process.kill(number)
        if worker is not None and self.supervised:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, number)  # a session of its own


class ChaosCluster(Cluster):
    """A private broker, a nexus, spores by name. Close it, whatever happened."""

    application = APP

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory, **settings)
        self.ledger = Ledger(directory / "ledger")
        self.client = client_of(self.app)
        self.environment = {
            **self.server.environment,
            **self._environment,
            "PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", ""))),
            "CHAOS_LEDGER": str(self.ledger.path),
            "NEXUS_PORT": "0",
        }
        self.by_name: dict[str, Spore] = {}
        self.programs: list[WorkerProcess] = []
        self.nexus: WorkerProcess | None = None
        self._numbers = itertools.count()

    def program(self, name: str, *arguments: str, **told: str) -> WorkerProcess:
        """Start `python arguments…` in the hive's environment; its output is in `name`.log.

        told: environment variables besides.
        """
        log, environment = self.directory / f"{name}.log", self.environment | told
        program = WorkerProcess(
            log, sys.executable, *arguments, env=environment, cwd=self.directory
        )
        self.programs.append(program)
        return program

    def start_nexus(self) -> None:
        self.nexus = self.program("nexus", "-m", "hive", "nexus")

    def start(
        self, name: str, *, slots: int = 2, supervised: bool = False, port: int | None = None
    ) -> Spore:
        """Start a spore, or start it again; it is not waited for.

        port: by which it reaches the broker, where that is another than the broker's own.
        """
        told = {} if port is None else {"REDIS_PORT": str(port)}
        if supervised:
            process = self.program(
                name,
                "-m",
                "hive",
                "spore",
                "--app",
                self.application,
                "--name",
                f"{name}@h",
                "--concurrency",
                str(slots),
                **told,
            )
        else:
            options = (
                "-n",
                f"{name}@h",
                "-c",
                str(slots),
                "-l",
                "info",
                "--without-gossip",
                "--without-mingle",
            )
            command = ("-m", "celery", "-A", self.application, "worker", *options)
            process = self.program(name, *command, **told)
        self.by_name[name] = Spore(name, process, supervised=supervised)
        return self.by_name[name]

    def start_all(self, count: int) -> None:
        """A nexus and so many spores, two in five of them supervised, all online."""
        self.start_nexus()
        for number in range(count):
            self.start(f"s{number}", supervised=number % 5 in (0, 2))
        self.wait_online(*self.by_name)

    def held_by(self, node: str) -> list[tuple[str, str]]:
        """(incarnation, publish id) of all that a node has reserved."""
        reserved = self.client.redis.hgetall(self.client.key("reserved", node))
        return [
            (value.decode().partition("|")[0], publish_id.decode())
            for publish_id, value in reserved.items()
        ]

    def left_over(self) -> list[str]:
        """Keys of accepted work that are still there: queues, reservations, what is placed,
        delayed, dead, and bodies.
        """
        prefix = self.client.key("")
        kept = (
            "entries",
            "ids",
            "delayed",
            "dead",
            "untold",
            "tasks:",
            "req:",
            "pin:",
            "placed:",
            "reserved:",
            "pullers",
        )
        keys = [
            raw.decode().removeprefix(prefix)
            for raw in self.client.redis.scan_iter(f"{prefix}*", count=1000)
        ]
        return sorted(key for key in keys if key.startswith(kept))

    def counters(self) -> dict[str, int]:
        return {
            name.decode(): int(value)
            for name, value in self.client.redis.hgetall(self.client.key("counters")).items()
        }

    def declared_dead(self) -> set[str]:
        """Incarnations that a watchdog took for dead, whether they were or not."""
        return set(self._logged(DEAD))

    def alarms(self) -> list[str]:
        """What the account's alarm cried."""
        return self._logged(ALARM)

    def _logged(self, what: re.Pattern[str]) -> list[str]:
        return [
            found
            for log in self.directory.glob("*.log")
            for found in what.findall(log.read_text(errors="replace"))
        ]

    def logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in self.directory.glob("*.log")
        )

    def close(self) -> None:
        for spore in self.by_name.values():
            spore.signal(signal.SIGKILL)
        for program in self.programs:
            program.kill()
        for router in self.app.conf.task_routes:
            router.close()
        super().close()


@contextlib.contextmanager
def chaos_cluster(directory: Path, **settings: object) -> Iterator[ChaosCluster]:
    cluster = ChaosCluster(directory, **settings)
    try:
        yield cluster
    except BaseException as error:
        error.add_note(cluster.logs())
        raise
    finally:
        cluster.close()


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_process(process: psutil.Process) -> None:
    """SIGKILL to one process; returns when it is dead."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    wait_until(lambda: gone(process), what="the process is gone")
