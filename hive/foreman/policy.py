"""How nodes are ranked: the interface, and the load score, which is what Hive uses by itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.foreman.score import Weights, load_score, machine_score
from hive.logs import get_logger
from hive.settings import Settings

log = get_logger(__name__)


class Policy(ABC):
    """Ranks nodes for tasks: the lower a node's number, the sooner it is offered one.

    A subclass says what a node's machine is worth in `machine`. To that is added what its tasks are
    worth, where their true number is known: `tasks_weight` times the share of its slots that is
    taken; and for a task that requires a GPU, `gpu_weight` times how busy the node's GPUs are.
    Which nodes may run a task at all (online, not draining, of its queue, meeting its requirements,
    with a free slot) is no matter of policy.

    Give it to `hive.install(app, policy=…)`, in every process that sends tasks.
    """

    tasks_weight: float = 0.3
    """What a node adds whose slots are all taken; 0 or more."""

    gpu_weight: float = 0.4
    """What a node adds whose GPUs are wholly busy, for a task that requires a GPU; 0 or more."""

    @abstractmethod
    def machine(self, node: Node) -> float:
        """The number of a node without its tasks: 0 for the best, more for a worse one.

        Asked for each node whenever its heartbeat changed it, four times a second at most, so it
        has to be quick. A node for which this raises, or gives no number, is offered nothing; it
        takes tasks from the shared queue all the same.
        """

    def load(self, node: Node) -> float:
        """The number of a node with the tasks of which its last heartbeat told.

        `Foreman.get_cluster_status` tells it as `load_score`, and `Foreman.select_best_node`
        chooses by it. `hive status` knows no application, and shows the load score.
        """
        slots = max(node.facts.slots, 1)
        return self.machine(node) + self.tasks_weight * min(node.load.active / slots, 1.0)


class LoadScore(Policy):
    """The load score: the busier a node's processors and memory are, and the more tasks it runs,
    the higher its number.
    """

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights or Weights()
        self.tasks_weight = self._weights.tasks
        # A GPU is to such a task what the processors are to others.
        self.gpu_weight = self._weights.cpu

    @classmethod
    def of(cls, settings: Settings) -> LoadScore:
        """With the weights of the settings (FOREMAN_CPU_WEIGHT and so on)."""
        return cls(Weights.of(settings))

    def machine(self, node: Node) -> float:
        return machine_score(node.load.cpu, node.load.memory, self._weights)

    def load(self, node: Node) -> float:
        return load_score(node.load.cpu, node.load.memory, node.load.active, self._weights)


def policy_of(app: Any, settings: Settings) -> Policy:
    """The policy that was given when Hive was installed in an application, else the load score."""
    given: Policy | None = getattr(app, "hive_policy", None)
    return LoadScore.of(settings) if given is None else given


def gpu_load(policy: Policy, node: Node, requirements: Requirements | None) -> float:
    """What a node's GPUs add to its number for a task with these requirements.

    A GPU that does not tell how busy it is counts as idle.
    """
    if requirements is None or not requirements.gpu:
        return 0.0
    return policy.gpu_weight * min(max(node.load.gpu, 0.0), 1.0)


def told(number_of: Callable[[Node], float], node: Node) -> float | None:
    """A policy's number for a node, 0 or more; None where it gives none."""
    try:
        number = float(number_of(node))
    except Exception as error:  # noqa: BLE001 - a policy is foreign code: it may raise anything
        log.warning("policy_failed", node_id=node.node_id, error=f"{type(error).__name__}: {error}")
        return None
    return max(0.0, number) if math.isfinite(number) else None
