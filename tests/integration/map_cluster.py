"""A hive for the tests of hive.map: spores that know its skills, and a watchdog where one is
needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from hive.broker.link.client import client_of
from hive.jobs.answer.job import Job
from hive.jobs.state.outcomes import Outcome
from hive.testing.cluster import watched
from tests.harness import WorkerProcess, wait_until
from tests.integration.cluster import Cluster

SKILLS = ("-I", "tests.integration.map_skills")


class MapCluster(Cluster):
    """Close it, whatever happened."""

    def spore(
        self, name: str, *, concurrency: int = 2, options: tuple[str, ...] = ()
    ) -> WorkerProcess:
        """Start a spore that knows the skills of these tests, and wait until it is online."""
        spore = self.spawn(name, concurrency=concurrency, options=(*SKILLS, *options))
        self.wait_online(name)
        return spore

    def watchdog(self) -> AbstractContextManager[None]:
        """Restore what dead spores held, as the nexus does."""
        return watched(self.app)

    def key(self, job: Job, part: str) -> str:
        return client_of(self.app).key("job", job.id, part)


@contextmanager
def map_cluster(
    directory: Path, *names: str, concurrency: int = 2, **settings: object
) -> Iterator[MapCluster]:
    """A private broker with spores of these names."""
    cluster = MapCluster(directory, **settings)
    try:
        for name in names:
            cluster.spawn(name, concurrency=concurrency, options=SKILLS)
        if names:
            cluster.wait_online(*names)
        yield cluster
    finally:
        cluster.close()


def by_index(outcomes: Iterator[Outcome] | list[Outcome]) -> dict[int, Outcome]:
    """Outcomes by item; fails when an item has two."""
    found: dict[int, Outcome] = {}
    for outcome in outcomes:
        assert outcome.index not in found, f"two outcomes of item {outcome.index}"
        found[outcome.index] = outcome
    return found


def wait_for_run(job: Job, items: int = 1, deadline: float = 60.0) -> None:
    """Wait until so many items of a job have their outcome."""
    wait_until(
        lambda: job.progress().completed + job.progress().failed >= items,
        deadline,
        f"{items} items done",
    )
