"""How much chaos: the short form of `make test`, the long one of `make chaos`."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["spore", "worker", "child", "nexus", "broker"]


@dataclass(frozen=True, slots=True)
class Form:
    """Times are in seconds.

    tasks: plain ones of the storm, some with countdowns, some that retry; canvases: of each of
    chord, group, chain and job. members: of each chord. runs: shortest and longest run of a plain
    task. backlog: accepted and unfinished tasks that the feeder keeps. spore_kills, worker_kills,
    child_kills, nexus_kills, broker_kills: SIGKILLs in the storm; of a worker alone, so that its
    supervisor has
        to bring it back. outage: how long a killed broker stays away.
    heartbeat: between two, for the storm. settled: all must be done so long after the last kill.
    good_tasks: beside a poisonous one. long_task: one run of the task that loses its connections.
    cut_task, cut: a task, and how long the link to the broker is down under it.
    stalled_task, stall: a task, and how long its node hangs, or is cut off, five times.
    freeze: how long a node hangs, at least. patience: for anything that must happen some time.
    timeout: of a whole test.
    """

    tasks: int
    canvases: int
    members: int
    runs: tuple[float, float]
    backlog: int
    spores: int
    spore_kills: int
    worker_kills: int
    child_kills: int
    nexus_kills: int
    broker_kills: int
    outage: float
    heartbeat: float
    settled: float
    good_tasks: int
    long_task: float
    cut_task: float
    cut: float
    stalled_task: float
    stall: float
    freeze: float
    patience: float
    timeout: float

    def kills(self, chance: random.Random) -> list[Kind]:
        """All kills in a random order; the last is a spore's,
        which takes longest to recover from.
        """
        kinds: list[Kind] = ["spore"] * (self.spore_kills - 1) + ["child"] * self.child_kills
        kinds += (
            ["worker"] * self.worker_kills
            + ["nexus"] * self.nexus_kills
            + ["broker"] * self.broker_kills
        )
        chance.shuffle(kinds)
        return [*kinds, "spore"]


SHORT = Form(
    tasks=300,
    canvases=1,
    members=100,
    runs=(0.05, 0.4),
    backlog=40,
    spores=3,
    spore_kills=8,
    worker_kills=1,
    child_kills=10,
    nexus_kills=1,
    broker_kills=1,
    outage=0.5,
    heartbeat=0.5,
    settled=60,
    good_tasks=300,
    long_task=12,
    cut_task=9,
    cut=4,
    stalled_task=14,
    stall=2,
    freeze=0,
    patience=60,
    timeout=400,
)

LONG = Form(
    tasks=10_000,
    canvases=20,
    members=100,
    runs=(0.1, 0.5),
    backlog=60,
    spores=5,
    spore_kills=100,
    worker_kills=10,
    child_kills=100,
    nexus_kills=5,
    broker_kills=3,
    outage=2,
    heartbeat=1,
    settled=15,
    good_tasks=1000,
    long_task=1200,
    cut_task=45,
    cut=15,
    stalled_task=60,
    stall=6,
    freeze=20,
    patience=180,
    timeout=3600,
)

FORM = LONG if os.environ.get("HIVE_TEST_CHAOS") == "long" else SHORT
