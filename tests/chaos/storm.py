"""A storm: SIGKILLs of whatever holds work, while work is fed; and what must be true after it."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from celery import states

import hive
from tests.chaos.cluster import ChaosCluster, Spore, kill_process
from tests.chaos.forms import FORM, Kind
from tests.chaos.ledger import Run
from tests.harness import wait_until


@dataclass(frozen=True, slots=True)
class Report:
    """What a storm did. `unexplained`: runs that were repeated though no kill hit them."""

    kills: Counter[str]
    seconds: float
    settled_after: float
    accepted: int
    runs: int
    held: int
    again: int
    unexplained: list[Run]
    taken_for_dead: int
    lost: list[str]
    stuck: list[str]
    doubled: list[tuple[str, int]]
    alarms: list[str]
    answers: int
    wrong: list[str]

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        each = f"{FORM.canvases} each of chord, group, chain and job"
        accepted = f"{self.accepted} messages, {self.seconds:.0f} s"
        mistaken = f"living nodes taken for dead: {self.taken_for_dead}"
        again = f"{self.runs}, again {self.again} of {self.held} held at a kill"
        doubled = f"published twice {len(self.doubled)}"
        return "\n".join(
            (
                f"storm    {FORM.tasks} tasks, {each}: {accepted}",
                f"kills    {sum(self.kills.values())}: {kills}; {mistaken}",
                f"runs     {again}, unexplained {len(self.unexplained)}",
                f"lost     {len(self.lost)}, stuck {len(self.stuck)}, {doubled}",
                f"account  {len(self.alarms)} alarms",
                f"answers  {self.answers}, wrong {len(self.wrong)}",
                f"all done {self.settled_after:.1f} s after the last kill",
            )
        )


class Storm:
    """One storm over a cluster whose spores and nexus run."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self.cluster = cluster
        self.chance = random.Random(7)
        self.kills: Counter[str] = Counter()
        # (incarnation, publish id) that a kill hit, each as often as it did.
        self.held: Counter[tuple[str, str]] = Counter()
        self.killed: set[str] = set()

    def rage(self) -> Report:
        began = time.monotonic()
        expected = self.cluster.directory / "expected"
        feeder = self.cluster.program("feed", "-m", "tests.chaos.feed", str(expected))
        kinds = FORM.kills(self.chance)
        for nth, kind in enumerate(kinds, 1):
            # Evenly over the work, the last one while the last of it is there.
            self._wait_for_done(nth * (FORM.tasks - FORM.backlog) // len(kinds))
            self._kill(kind)
            if nth % 20 == 0:
                print(
                    f"         {nth} of {len(kinds)} kills after {time.monotonic() - began:.0f} s",
                    flush=True,
                )
        last_kill = time.monotonic()
        wait_until(
            lambda: feeder.process.poll() is not None, FORM.patience, "the feeder has sent all"
        )
        assert feeder.process.returncode == 0, feeder.output()
        stuck = self._settle()
        settled_after = time.monotonic() - last_kill
        return self._report(time.monotonic() - began, settled_after, stuck, expected)

    # -- killing

    def _wait_for_done(self, tasks: int) -> None:
        plain = lambda: sum(label.startswith("t") for label in self.cluster.ledger.read().ended)
        wait_until(lambda: plain() >= tasks, FORM.patience, f"{tasks} tasks have run")

    def _kill(self, kind: Kind) -> None:
        match kind:
            case "spore":
                self._kill_spore()
            case "worker":
                self._kill_worker()
            case "child":
                self._kill_child()
            case "nexus":
                assert self.cluster.nexus is not None
                self.cluster.nexus.kill()
                self.cluster.start_nexus()
            case "broker":
                self.cluster.server.kill()
                time.sleep(FORM.outage)
                self.cluster.server.start()
        self.kills[kind] += 1

    def _victim(self, *, supervised: bool = False) -> tuple[Spore, psutil.Process]:
        """A pool process that is running a task, and its spore; supervised: one of a spore that has
        a supervisor.
        """

        def find() -> list[tuple[Spore, psutil.Process]]:
            working = {run.pid for run in self.cluster.ledger.read().running()}
            spores = [
                spore for spore in self.cluster.by_name.values() if spore.supervised >= supervised
            ]
            return [
                (spore, process)
                for spore in spores
                for process in spore.pool()
                if process.pid in working
            ]

        return self.chance.choice(wait_until(find, FORM.patience, "some spore holds work"))

    def _kill_spore(self) -> None:
        spore, _ = self._victim()
        spore.signal(9)
        spore.process.process.wait(60)
        self._note_held(spore)
        self.cluster.start(spore.name, supervised=spore.supervised)

    def _kill_worker(self) -> None:
        spore, _ = self._victim(supervised=True)
        worker = spore.worker()
        assert worker is not None, "nobody else kills"
        kill_process(worker)
        self._note_held(spore)

    def _note_held(self, spore: Spore) -> None:
        """What a worker held when it was killed is still reserved: that it is dead is yet to be
        noticed.
        """
        held = self.cluster.held_by(spore.node)
        self.held.update(held)
        self.killed |= {incarnation for incarnation, _ in held}

    def _kill_child(self) -> None:
        _, process = self._victim()
        kill_process(process)
        run = self.cluster.ledger.read().latest_of(process.pid)
        assert run is not None
        self.held[run.incarnation, run.publish_id] += 1

    # -- afterwards

    def _settle(self) -> list[str]:
        """Wait until nothing is left; what is left at the end of all patience is stuck."""
        try:
            wait_until(lambda: not self.cluster.left_over(), FORM.patience)
        except AssertionError:
            return self.cluster.left_over()
        return []

    def _report(
        self, seconds: float, settled_after: float, stuck: list[str], expected: Path
    ) -> Report:
        ledger = self.cluster.ledger.read()
        taken_for_dead = self.cluster.declared_dead() - self.killed
        again = ledger.ran_again()
        allowed = self.held.copy()
        unexplained = []
        for run in again:
            allowed[run.incarnation, run.publish_id] -= 1
            if (
                allowed[run.incarnation, run.publish_id] < 0
                and run.incarnation not in taken_for_dead
            ):
                unexplained.append(run)
        lines = [json.loads(line) for line in expected.read_text().splitlines()]
        return Report(
            kills=self.kills,
            seconds=seconds,
            settled_after=settled_after,
            accepted=self.cluster.counters().get("accepted", 0),
            runs=len(ledger.runs),
            held=self.held.total(),
            again=len(again),
            unexplained=unexplained,
            taken_for_dead=len(taken_for_dead),
            lost=sorted({f"t{index}" for index in range(FORM.tasks)} - ledger.ended),
            stuck=stuck,
            doubled=ledger.published_twice(),
            alarms=self.cluster.alarms(),
            answers=len(lines),
            wrong=[problem for line in lines for problem in self._wrong(line)],
        )

    def _wrong(self, line: dict[str, Any]) -> list[str]:
        """What is not as it should be with one answer."""
        if "job" in line:
            result = hive.job(line["job"], app=self.cluster.app).result(FORM.patience)
            good = result.complete and result.value == line["expected"]
            return (
                []
                if good
                else [
                    f"{line}: {result.value!r}, error {result.error!r}, complete {result.complete}"
                ]
            )
        meta = self.cluster.app.backend.get_task_meta(line["task"])
        good = meta["status"] == states.SUCCESS and meta["result"] == line["expected"]
        return [] if good else [f"{line}: {meta['status']} {meta['result']!r}"]
