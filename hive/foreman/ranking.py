"""Which nodes a task is offered to.

Over one reading of the node table there is a heap for each kind of task.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.errors import NoEligibleNodeError
from hive.foreman.policy import Policy, gpu_load, told

Candidate = list[str | int | float]
"""`[node id, slots, score]`; to the score the publish script adds what the node's tasks are worth,
by their true number.
"""

CANDIDATES = 5
RING_POINTS = 16
RANKINGS_KEPT = 64
UNUSED_AFTER = 10.0
AFFINITY_SCORE = -1.0


class HashRing:
    """Nodes on a circle, at 16 points each.

    A key belongs to the next node that may be used, and stays there while others come and go.
    """

    def __init__(self, node_ids: Iterable[str]) -> None:
        owners = {point: node_id for node_id in node_ids for point in _points(node_id)}
        self._points = sorted(owners)
        self._owners = [owners[point] for point in self._points]

    def owner(self, key: str, usable: Mapping[str, object]) -> str | None:
        """The node of `key` among the usable ones; None when none of them is on the ring."""
        start = bisect.bisect(self._points, _points(key)[0])
        for position in chain(range(start, len(self._owners)), range(start)):
            if self._owners[position] in usable:
                return self._owners[position]
        return None


class Ranking:
    """The nodes for tasks of one queue and one set of requirements, least loaded first.

    `assigned` counts, by node id, the tasks that this process offered to a node first since that
    node's last beat. `machine` says what a node's machine is worth, `tasks_weight` what its tasks
    are (both as `Policy` has them); a node without a number is left out.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        queue: str,
        requirements: Requirements | None,
        assigned: dict[str, int],
        *,
        machine: Callable[[Node], float | None],
        tasks_weight: float,
    ) -> None:
        self.queue = queue
        self.requirements = requirements
        self.used_at = time.monotonic()
        self._tasks_weight = tasks_weight
        self._assigned = assigned
        fitting = (
            (node, machine(node))
            for node in nodes.values()
            if node.available
            and queue in node.facts.queues
            and (requirements is None or requirements.fits(node))
        )
        known = [(node, number) for node, number in fitting if number is not None]
        self._nodes = [node for node, _ in known]
        self._machine = [number for _, number in known]
        self._index = {node.facts.node_id: index for index, node in enumerate(self._nodes)}
        self._heap = [self._entry(index) for index in range(len(self._nodes))]
        heapq.heapify(self._heap)

    def decide(self, ring: HashRing | None = None, affinity: str | None = None) -> list[Candidate]:
        """The best five nodes, of which the first counts as assigned.

        With a ring and a key, the key's node stands before them.
        """
        popped = [heapq.heappop(self._heap) for _ in range(min(CANDIDATES, len(self._heap)))]
        chosen = [entry[3] for entry in popped]
        first = chosen[0] if chosen else None
        candidates = [self._candidate(index) for index in chosen]
        owner = ring.owner(affinity, self._index) if ring and affinity else None
        if owner is not None:
            first = self._index[owner]
            others = [candidate for candidate in candidates if candidate[0] != owner]
            candidates = [self._candidate(first, AFFINITY_SCORE), *others[: CANDIDATES - 1]]
        if first is not None:
            node_id = self._nodes[first].facts.node_id
            self._assigned[node_id] = self._assigned.get(node_id, 0) + 1
        for entry in popped:
            heapq.heappush(self._heap, self._entry(entry[3]) if entry[3] == first else entry)
        return candidates

    def _candidate(self, index: int, score: float | None = None) -> Candidate:
        facts = self._nodes[index].facts
        return [
            facts.node_id,
            facts.slots,
            round(self._machine[index], 4) if score is None else score,
        ]

    def _entry(self, index: int) -> tuple[bool, float, float, int]:
        """The place of a node in the heap. Nodes without a free slot come last.

        The others are ordered as the publish script orders them: by the share of their slots that
        is taken. (The load score counts ten tasks as full instead.)
        """
        node = self._nodes[index]
        taken = node.load.active + self._assigned.get(node.facts.node_id, 0)
        slots = node.facts.slots
        full = taken >= slots
        busy = 1.0 if full else taken / slots
        score = self._machine[index] + busy * self._tasks_weight
        return full, score, random.random(), index


class Rankings:
    """All rankings over one reading of the table; safe to share between threads.

    A ranking is made when it is first asked for. Those of the next reading are made from these by
    `following`, while these still serve.
    """

    def __init__(self, nodes: Mapping[str, Node], policy: Policy) -> None:
        self.nodes = nodes
        self._policy = policy
        self._assigned: dict[str, int] = {}
        self._machines: dict[str, float | None] = {}
        self._kept: OrderedDict[tuple[str, str], Ranking] = OrderedDict()
        self._able: dict[str, bool] = {}
        self._ring: HashRing | None = None
        self._lock = threading.Lock()

    def following(self, nodes: Mapping[str, Node]) -> Rankings:
        """The rankings for a newer reading, those in use built already.

        What this process has assigned to a node is counted until the node's next beat tells of it.
        """
        new = Rankings(nodes, self._policy)
        same = {node_id for node_id, node in nodes.items() if self.nodes.get(node_id) is node}
        # Another thread may be adding to these just now.
        assigned, machines = self._assigned.copy(), self._machines.copy()
        new._assigned = {node_id: count for node_id, count in assigned.items() if node_id in same}
        new._machines = {node_id: number for node_id, number in machines.items() if node_id in same}
        if self._ring is not None:
            new._ring = self._ring if nodes.keys() == self.nodes.keys() else HashRing(nodes)
        recent = time.monotonic() - UNUSED_AFTER
        with self._lock:
            in_use = [
                (key, ranking) for key, ranking in self._kept.items() if ranking.used_at > recent
            ]
        for key, ranking in in_use:
            time.sleep(0)  # a publishing thread gets the interpreter lock in between
            new._kept[key] = built = new._built(ranking.queue, ranking.requirements)
            built.used_at = ranking.used_at
        return new

    def decide(
        self, queue: str | None, requirements: Requirements | None, affinity: str | None
    ) -> list[Candidate]:
        """At most five candidates for a task of `queue`, the best first; none when it has to wait,
        or without a queue.

        Raises: NoEligibleNodeError when no known node can ever satisfy the requirements.
        """
        candidates = self._offer(queue, requirements, affinity) if queue is not None else []
        if requirements is not None and not candidates and not self._satisfiable(requirements):
            raise NoEligibleNodeError(
                requirements.refusal(node.facts for node in self.nodes.values())
            )
        return candidates

    def _offer(
        self, queue: str, requirements: Requirements | None, affinity: str | None
    ) -> list[Candidate]:
        with self._lock:
            ranking = self._ranking(queue, requirements)
            if affinity and self._ring is None:
                self._ring = HashRing(self.nodes)
            return ranking.decide(self._ring, affinity)

    def _ranking(self, queue: str, requirements: Requirements | None) -> Ranking:
        if requirements is not None and requirements.node:
            return self._built(queue, requirements)  # of one node: cheaper made than kept
        key = (requirements.digest if requirements else "", queue)
        ranking = self._kept.get(key)
        if ranking is None:
            ranking = self._kept[key] = self._built(queue, requirements)
            if len(self._kept) > RANKINGS_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
            ranking.used_at = time.monotonic()
        return ranking

    def _built(self, queue: str, requirements: Requirements | None) -> Ranking:
        nodes = self.nodes
        if requirements is not None and requirements.node:
            nodes = (
                {requirements.node: nodes[requirements.node]} if requirements.node in nodes else {}
            )
        return Ranking(
            nodes,
            queue,
            requirements,
            self._assigned,
            machine=lambda node: self._machine(node, requirements),
            tasks_weight=self._policy.tasks_weight,
        )

    def _machine(self, node: Node, requirements: Requirements | None) -> float | None:
        """What the policy says of a node, asked once a beat: it may be slow, and fail each time."""
        if node.node_id not in self._machines:
            self._machines[node.node_id] = told(self._policy.machine, node)
        number = self._machines[node.node_id]
        return None if number is None else number + gpu_load(self._policy, node, requirements)

    def _satisfiable(self, requirements: Requirements) -> bool:
        """Whether a known node could ever satisfy them; nothing is known from an empty table."""
        known = self._able.get(requirements.digest)
        if known is None:
            known = not self.nodes or any(
                not requirements.missing(node.facts) for node in self.nodes.values()
            )
            self._able[requirements.digest] = known
        return known


def _points(text: str) -> list[int]:
    """16 places on the circle, the same in every process: Python's own hash is not."""
    places: list[int] = []
    for part in range(RING_POINTS // 8):
        digest = hashlib.blake2b(f"{part}:{text}".encode(), digest_size=64).digest()
        places += [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
    return places
