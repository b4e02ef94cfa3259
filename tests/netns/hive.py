"""A hive on several machines: broker and nexus on one, each spore on one of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.cluster import ChaosCluster, Spore
from tests.harness import BrokerServer, WorkerProcess
from tests.netns.network import Machine, network

MASTER = "master"


class Hive(ChaosCluster):
    """Its spores are started on the machine of their name; the test itself is on the master."""

    def __init__(self, directory: Path, machines: dict[str, Machine], **settings: object) -> None:
        self.machines = machines
        address = machines[MASTER].address
        options = ("--bind", "127.0.0.1", address, "--protected-mode", "no")
        self.broker = BrokerServer(directory / "broker", options=options).start()
        try:
            super().__init__(directory, server=self.broker, **settings)
        except BaseException:
            self.broker.kill()
            raise

    def program(self, name: str, *arguments: str, **told: str) -> WorkerProcess:
        machine = self.machines.get(name)
        if machine is None:
            return super().program(name, *arguments, **told)
        told = self.environment | {"REDIS_HOST": self.machines[MASTER].address} | told
        command = machine.command(sys.executable, *arguments)
        log = self.directory / f"{name}.log"
        program = WorkerProcess(log, *command, env=told, cwd=self.directory)
        self.programs.append(program)
        return program

    def start_everything(self, slots: int) -> list[Spore]:
        """The nexus, and a spore on every machine but the master; all are online."""
        self.start_nexus()
        spores = [self.start(name, slots=slots) for name in self.machines if name != MASTER]
        self.wait_online(*self.by_name)
        return spores

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.broker.kill()


@contextlib.contextmanager
def hive_on(directory: Path, *names: str, **settings: object) -> Iterator[Hive]:
    """A hive on a master and on machines of these names."""
    with network(MASTER, *names) as machines, machines[MASTER].inside():
        hive = Hive(directory, machines, **settings)
        try:
            yield hive
        except BaseException as error:
            error.add_note(hive.logs())
            raise
        finally:
            hive.close()
