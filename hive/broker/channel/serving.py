"""In which order a node serves its queues."""

from __future__ import annotations

from collections.abc import Iterable

from hive.broker.link.client import SPACE
from hive.broker.link.priorities import queue_lists


class ServingOrder:
    """The order of one node's queues.

    Pins and requirement queues come first, then high, the application's own queues in turn, and
    background. It is worked out anew only when the queues change, since every reserve asks for it.
    """

    def __init__(self, prefix: str, node_id: str, high: str, background: str) -> None:
        self._prefix = prefix
        self._node_id = node_id
        self._high = high
        self._background = background
        self._queues: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._turn = 0
        self._rotations: list[list[str]] = [[]]
        self.wake_lists: list[str] = []
        """What a waiting node blocks on, its own list first."""

    def update(self, active: Iterable[str], requirement_queues: tuple[str, ...]) -> None:
        """Say which queues the worker consumes and which requirement queues the node may serve."""
        queues = (tuple(active), requirement_queues)
        if queues != self._queues:
            self._queues = queues
            self._work_out(*queues)

    def next_lists(self) -> list[str]:
        """The queues' lists, most urgent first; equal queues take turns from call to call."""
        self._turn = (self._turn + 1) % len(self._rotations)
        return self._rotations[self._turn]

    def _work_out(self, active: tuple[str, ...], requirement_queues: tuple[str, ...]) -> None:
        first = [
            f"{SPACE}pin:{self._node_id}",
            *requirement_queues,
            *(queue for queue in active if queue == self._high),
        ]
        last = [queue for queue in active if queue == self._background]
        equal = [queue for queue in active if queue not in (self._high, self._background)]
        orders = [
            [*first, *equal[turn:], *equal[:turn], *last] for turn in range(max(1, len(equal)))
        ]
        self._rotations = [
            [self._prefix + name for queue in order for name in queue_lists(queue)]
            for order in orders
        ]
        wake = f"{self._prefix}{SPACE}wake:"
        self.wake_lists = [f"{wake}node:{self._node_id}", *(wake + queue for queue in orders[0])]
