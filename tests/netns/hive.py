"""A hive on several machines: the broker on one, each spore and each nexus on one of its own."""

from __future__ import annotations

import contextlib
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from tests.chaos.cluster import ChaosCluster, Spore
from tests.chaos.ledger import Run
from tests.chaos.tasks import long
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.netns.network import Machine, Network, network

MASTER = "master"
BROKER = "broker"
"""The name by which all machines know the master, whatever its address is."""
NEXUSES = ("n1", "n2")
SPORES = ("s0", "s1", "s2", "s3")
SLOTS = 2
LONG_ONES = 6
SECONDS = 60
PATIENCE = 120
CUT = 20
"""Seconds that a link is cut: more than a death takes, and a part of what the long tasks take."""
TAKEN_OVER_WITHIN = 10
"""Seconds, of which the lease lasts four and a tick of a cut nexus' last connection one."""
ACTED = re.compile(
    r"event=(?:node_\w+|absences_count_as_deaths|zombie_retried|placed_given_back"
    r"|dead_letter\w*|swept|conservation_\w+|lease_taken)\b.*"
)
"""What only the watchdog that leads does, and says."""


class Hive(ChaosCluster):
    """Spores and nexuses are started on the machine of their name; the test itself is on the
    master.
    """

    def __init__(self, directory: Path, net: Network, **settings: object) -> None:
        self.machines = net.machines
        self.parted = net.parted
        self.hosts = directory / "hosts"
        self.name_broker()
        # On all addresses that the master ever has.
        options = ("--bind", "*", "--protected-mode", "no")
        self.broker = BrokerServer(directory / "broker", options=options).start()
        try:
            super().__init__(directory, server=self.broker, **settings)
        except BaseException:
            self.broker.kill()
            raise

    def name_broker(self) -> None:
        """From now on the broker's name leads to the address that the master has now."""
        named = f"127.0.0.1 localhost\n{self.machines[MASTER].address} {BROKER}\n"
        # In place: the machines have the file itself mounted.
        self.hosts.write_text(named)

    def program(self, name: str, *arguments: str, **told: str) -> WorkerProcess:
        machine = self.machines.get(name)
        if machine is None:
            return super().program(name, *arguments, **told)
        command = machine.command(sys.executable, *arguments, hosts=self.hosts)
        log = self.directory / f"{name}.log"
        environment = self.environment | self.here(machine) | told
        program = WorkerProcess(log, *command, env=environment, cwd=self.directory)
        self.programs.append(program)
        return program

    def here(self, machine: Machine) -> dict[str, str]:
        """What a program is told of the machine on which it is."""
        home = str(self.directory / f"home-{machine.name}")
        return {"REDIS_HOST": BROKER, "HIVE_HOME": home}

    def start_everything(self, slots: int) -> list[Spore]:
        """A nexus, and a spore on every machine but the master; all are online."""
        self.start_nexus()
        return self.start_spores(slots, *(name for name in self.machines if name != MASTER))

    def start_spores(self, slots: int, *names: str) -> list[Spore]:
        spores = [self.start(name, slots=slots) for name in names]
        self.wait_online(*names)
        return spores

    def start_nexuses(self, *names: str) -> None:
        """The first one leads, and the others wait for the lease."""
        for name in names:
            port_file = str(self.port_file(name))
            self.program(name, "-m", "hive", "nexus", HIVE_NEXUS_PORT_FILE=port_file)
            wait_until(self.leader, PATIENCE, f"{name} leads")
        wait_until(lambda: all(self.port_file(name).exists() for name in names), PATIENCE)
        assert self.leader() == names[0]

    def begin(self) -> tuple[list[Any], list[Run]]:
        """Two nexuses, of which the first leads, and four spores, which run six tasks of 60 s."""
        self.start_nexuses(*NEXUSES)
        self.start_spores(SLOTS, *SPORES)
        labels = (f"t{n}" for n in range(LONG_ONES))
        results = [self.app.send_task(long.name, (label, SECONDS)) for label in labels]
        return results, self.running(LONG_ONES)

    @contextlib.contextmanager
    def cut(self, *names: str) -> Iterator[None]:
        """The links of these machines are down."""
        with ExitStack() as faults:
            for name in names:
                faults.enter_context(self.machines[name].fault("down"))
            yield

    @contextlib.contextmanager
    def leader_cut(self, leader: str, fault: AbstractContextManager[None]) -> Iterator[None]:
        """That nexus, which leads, is cut off for 20 s by that fault; from then on the other one
        leads, and this one does nothing. Within, it does.
        """
        [other] = set(NEXUSES) - {leader}
        assert self.leader() == leader
        told = self.told(leader)
        with fault:
            end = time.monotonic() + CUT
            taken_over = lambda: self.leader() == other
            wait_until(taken_over, TAKEN_OVER_WITHIN, f"{other} takes the lease")
            yield
            passed(end - time.monotonic())
            assert not self.is_well(leader), "it says so itself"
            assert self.is_well(other)
            assert self.leader() == other
            assert self.acted(leader, told) == []
        wait_until(lambda: self.is_well(leader), PATIENCE, f"{leader} is back")
        assert self.leader() == other, "who comes back does not take the lease from who leads"
        assert self.acted(leader, told) == []

    def port_file(self, nexus: str) -> Path:
        return self.directory / f"{nexus}.port"

    def leader(self) -> str | None:
        """The machine of the nexus that holds the lease now; None where nobody does."""
        key = self.client.key("lease", "foreman")
        holder, until = self.client.redis.hmget(key, "holder", "until")
        if holder is None or int(until) <= self.client.now_ms():
            return None
        return str(holder.decode().partition(":")[0])

    def is_well(self, nexus: str) -> bool:
        """What that nexus itself answers to whoever asks on its machine."""
        url = f"http://127.0.0.1:{self.port_file(nexus).read_text().strip()}/health"
        with self.machines[nexus].inside():
            try:
                with urllib.request.urlopen(url, timeout=30) as reply:
                    status = reply.status
            except urllib.error.HTTPError as error:
                error.close()
                status = error.code
        assert status in (200, 503)
        return bool(status == 200)

    def told(self, name: str) -> int:
        """How much that machine's program has logged so far."""
        return len(self._log_of(name))

    def acted(self, nexus: str, since: int = 0) -> list[str]:
        """What that nexus did as the one that leads, since it had logged so much."""
        return ACTED.findall(self._log_of(nexus)[since:])

    def _log_of(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def running(self, count: int) -> list[Run]:
        """So many tasks run, and these are they."""
        begun = lambda: len(self.ledger.read().running()) == count
        wait_until(begun, PATIENCE, f"{count} tasks run")
        return self.ledger.running()

    def all_done(self, count: int) -> None:
        """So many tasks were sent, and each has ended once: none is lost, none a dead letter."""
        # Cheaply at first: others wait beside this test.
        wait_until(lambda: self.counters().get("done", 0) >= count, PATIENCE, "all is done")
        wait_until(lambda: not self.left_over(), PATIENCE, "nothing is left")
        counters = self.counters()
        assert counters["accepted"] == counters["done"] == counters["completed"] == count
        assert not counters.get("dead"), "none is a dead letter"
        assert len(self.ledger.read().ended) == count, "none is lost"
        assert self.alarms() == []

    def wait_back(self, run: Run) -> None:
        """Wait until the worker of that run, which was cut off, is one of the hive again."""
        known = self.client.key("epochs")
        attached = lambda: self.client.redis.hexists(known, run.incarnation)
        wait_until(attached, PATIENCE, f"{run.incarnation} is back")

    def silent(self, nexus: str) -> set[str]:
        """The nodes that this nexus took for silent."""
        lines = [line for line in self.acted(nexus) if line.startswith("event=node_silent")]
        return {line.split("incarnation=")[1].split("/")[0] for line in lines}

    def each_ended_once(self, results: list[Any], repeated: Collection[Run], more: int = 0) -> None:
        """The long tasks have their answers, and of these runs, at most, there was a second one.

        more: how many others were sent.
        """
        for result in results:
            result.get(timeout=PATIENCE)
        self.all_done(LONG_ONES + more)
        may = {(run.publish_id, run.incarnation) for run in repeated}
        again = {(run.publish_id, run.incarnation) for run in self.ledger.read().ran_again()}
        assert again <= may, "only what ran on a node that was cut off alone"

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.broker.kill()


def passed(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 10, "so long it lasts")


@contextlib.contextmanager
def hive_on(
    directory: Path, *names: str, far: Collection[str] = (), **settings: object
) -> Iterator[Hive]:
    """A hive on a master and on machines of these names; those of `far` are on the far side."""
    with network(MASTER, *names, far=far) as net, net.machines[MASTER].inside():
        hive = Hive(directory, net, **settings)
        try:
            yield hive
        except BaseException as error:
            error.add_note(hive.logs())
            raise
        finally:
            hive.close()
