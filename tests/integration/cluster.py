"""One broker, one application of this process, and spores started by name: what tests of a whole
hive build on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from celery import Celery

import hive
from hive.broker.link.client import client_of
from hive.broker.nodes.table import Node, NodeTable
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess, wait_until

REPOSITORY = Path(__file__).parents[2]


class Cluster:
    """A private broker with spores on it. Close it, whatever happened."""

    def __init__(
        self,
        directory: Path,
        *,
        server: BrokerServer | None = None,
        port: int | None = None,
        **settings: object,
    ) -> None:
        """server: one that runs already, and stays the caller's to stop. port: by which it is
        reached, when not its own.
        """
        self.directory = directory
        self.server = server or BrokerServer(directory / "broker").start()
        self.owned = self.server if server is None else None
        self.port = port or self.server.port
        self.settings = Settings.load(redis_host="127.0.0.1", redis_port=self.port, **settings)
        self.app = hive.install(Celery(f"tests-{self.port}"), self.settings)
        self.spores: list[WorkerProcess] = []
        self._environment = {name.upper(): str(value) for name, value in settings.items()}

    def spawn(
        self,
        name: str,
        *,
        concurrency: int = 2,
        env: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> WorkerProcess:
        """Start a spore that knows the tests' own skills; it is not waited for."""
        environment = {
            **self.server.environment,
            "REDIS_PORT": str(self.port),
            "PYTHONPATH": str(REPOSITORY),
        }
        environment |= {**self._environment, **(env or {})}
        wanted = ("-I", "tests.integration.jobs", "--without-gossip", "--without-mingle", *options)
        spore = WorkerProcess.celery(
            self.directory, name, concurrency=concurrency, env=environment, options=wanted
        )
        self.spores.append(spore)
        return spore

    def wait_online(self, *names: str) -> dict[str, Node]:
        """Wait until these spores (names without `@h`) are online."""
        table = NodeTable(client_of(self.app))
        wanted = {f"{name}@h" for name in names}

        def online() -> dict[str, Node]:
            nodes = table.read()
            return (
                nodes
                if wanted <= {node_id for node_id, node in nodes.items() if node.online}
                else {}
            )

        return wait_until(online, what=f"{sorted(wanted)} online")

    def close(self) -> None:
        for spore in self.spores:
            spore.kill()
        client_of(self.app).close()
        self.app.backend.result_consumer.stop()
        if self.owned is not None:
            self.owned.kill()
