"""How loaded a node is, as one number."""

from __future__ import annotations

from dataclasses import dataclass

from hive.settings import Settings


@dataclass(frozen=True, slots=True)
class Weights:
    """What a share of CPU, of memory and of tasks is worth.

    `max_tasks` is the number of active tasks that counts as full.
    """

    cpu: float = 0.4
    memory: float = 0.3
    tasks: float = 0.3
    max_tasks: int = 10

    @classmethod
    def of(cls, settings: Settings) -> Weights:
        return cls(
            cpu=settings.foreman_cpu_weight,
            memory=settings.foreman_memory_weight,
            tasks=settings.foreman_tasks_weight,
            max_tasks=settings.foreman_max_tasks_normalization,
        )


def load_score(
    cpu: float, memory: float, active_tasks: int, weights: Weights | None = None
) -> float:
    """The load of a node: `cpu*0.4 + memory*0.3 + min(active_tasks/10, 1)*0.3`, where the four
    numbers are the weights.

    cpu, memory: shares in use on 0..1; what a probe measures outside of that is clipped.
    Returns: 0 for an idle node, the sum of the weights for a full one.
    """
    weights = weights or Weights()
    tasks = min(active_tasks / weights.max_tasks, 1.0)
    return machine_score(cpu, memory, weights) + tasks * weights.tasks


def machine_score(cpu: float, memory: float, weights: Weights) -> float:
    """The part of the load that a node measures.

    Its tasks are counted elsewhere, where their true number is known.
    """
    return _share(cpu) * weights.cpu + _share(memory) * weights.memory


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
