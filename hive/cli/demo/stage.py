"""The demo's means: one measured job at a time, and the words and tables that show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Task
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hive.cli.cluster import Cluster
from hive.cli.follow import watched
from hive.cli.output import Bar, seconds, table
from hive.jobs.mapping import map as hive_map
from hive.jobs.state.outcomes import Outcome

DEADLINE = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """One job, measured: what was sent, the outcomes in item order, and the seconds from the call
    to the last outcome.
    """

    items: Sequence[Any]
    outcomes: Sequence[Outcome]
    took: float

    @property
    def ok(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "ok"]

    @property
    def lost(self) -> int:
        """Items of which nothing was heard."""
        return len(self.items) - len({outcome.index for outcome in self.outcomes})

    @property
    def again(self) -> list[Outcome]:
        """Outcomes that took more than one attempt."""
        return [outcome for outcome in self.outcomes if outcome.attempts > 1]


class Stage:
    """A cluster to run jobs on and a console to show them on."""

    def __init__(self, cluster: Cluster, out: Console) -> None:
        self.cluster = cluster
        self.out = out

    def run(
        self,
        skill: Task[Any, Any],
        items: Sequence[Any],
        label: str,
        *,
        requirements: dict[str, Any] | None = None,
        chunk: int | None = None,
        each: Callable[[Outcome], None] | None = None,
    ) -> Run:
        """Map, with live progress, and wait for all outcomes. `each` hears them as they come."""
        began = time.monotonic()
        job = hive_map(
            skill,
            items,
            requirements=requirements,
            timeout=DEADLINE,
            chunk=chunk or "auto",
            app=self.cluster.app,
        )
        outcomes = []
        try:
            with watched(job, self.cluster, Bar(label, out=self.out, line_every=2.0)):
                for outcome in job:
                    outcomes.append(outcome)
                    if each is not None:
                        each(outcome)
        except KeyboardInterrupt:
            job.cancel()
            raise
        return Run(
            items, sorted(outcomes, key=lambda outcome: outcome.index), time.monotonic() - began
        )

    def title(self, text: str) -> None:
        self.out.print(f"\n{text}", style="bold", markup=False)

    def say(self, text: str) -> None:
        self.out.print(Text(text), soft_wrap=True)

    def quote(self, head: str, text: str) -> None:
        """A title and an indented text below it."""
        self.out.print(Text(head, style="italic"))
        self.out.print(Padding(Text(text), (0, 0, 0, 4)))

    def show(self, made: Table) -> None:
        self.out.print(made)

    def show_nodes(self, run: Run, what: str) -> None:
        """Which node did how much."""
        nodes = sorted({outcome.node for outcome in run.outcomes if outcome.node})
        rows = []
        for node in nodes:
            mine = [outcome for outcome in run.outcomes if outcome.node == node]
            rows.append(
                (
                    node,
                    len(mine),
                    f"{len(mine) / len(run.outcomes):.0%}",
                    seconds(sum(outcome.seconds for outcome in mine)),
                )
            )
        self.show(
            table(
                "who did how much",
                ("node", what, "share", "time in them"),
                rows,
                right=(what, "share", "time in them"),
            )
        )
