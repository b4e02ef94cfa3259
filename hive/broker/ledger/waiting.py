"""What tasks wait for that could run but for the memory that they demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node

MEMORY = Script("hive.broker.ledger", "memory", include=(LIBRARY,))
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class MemoryWait:
    """How many tasks wait with the same requirements, since no node has the memory free now."""

    tasks: int
    memory_mb: int
    reason: str

    @property
    def sentence(self) -> str:
        waits = "1 task waits" if self.tasks == 1 else f"{self.tasks} tasks wait"
        return f"{waits}: {self.reason}"


def free_memory(client: BrokerClient, node_ids: Iterable[str]) -> dict[str, int]:
    """How many MiB of memory each node could still give, beside what it has promised to tasks.

    Blocks for one round trip. Raises: redis errors.
    """
    names = list(node_ids)
    free, _ = _ask(client, 0, names)
    return {node_id: max(0, mb) for node_id, mb in zip(names, free, strict=True)}


def memory_wait(
    client: BrokerClient, requirements: Requirements, nodes: Mapping[str, Node]
) -> str | None:
    """Why a task with these requirements waits, where it is for memory; else None.

    Blocks for one round trip. Raises: redis errors.
    """
    if not requirements.memory_mb:
        return None
    return _reason(requirements, nodes, free_memory(client, nodes))


def memory_waits(client: BrokerClient, nodes: Mapping[str, Node]) -> list[MemoryWait]:
    """The tasks that wait for memory in the queues of their requirements.

    Blocks for one round trip. Raises: redis errors.
    """
    names = list(nodes)
    free_mb, rows = _ask(client, 1, names)
    free = dict(zip(names, free_mb, strict=True))
    found = []
    for position in range(0, len(rows), 2):
        try:
            requirements = Requirements.stored(rows[position])
        except ValueError:
            continue  # a later release's
        reason = _reason(requirements, nodes, free)
        if reason is not None:
            found.append(MemoryWait(int(rows[position + 1]), requirements.memory_mb, reason))
    return sorted(found, key=lambda wait: -wait.tasks)


def _reason(
    requirements: Requirements, nodes: Mapping[str, Node], free: Mapping[str, int]
) -> str | None:
    able = [
        node_id
        for node_id, node in nodes.items()
        if node.available and not requirements.missing(node.facts)
    ]
    able.sort(key=lambda node_id: (-free[node_id], node_id))
    if not able or free[able[0]] >= requirements.memory_mb:
        return None
    most = ", ".join(f"{node_id} has {max(0, free[node_id])} MB" for node_id in able[:NAMES_SHOWN])
    return (
        f"{requirements.memory_mb} MB of memory must be free beside what is promised to running "
        f"tasks; {most}"
    )


def _ask(client: BrokerClient, count: int, node_ids: list[str]) -> tuple[list[int], list[bytes]]:
    free, waiting = client.run(MEMORY, (), (client.prefix, count, *node_ids))
    return free, waiting
