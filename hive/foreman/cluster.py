"""Questions about the whole cluster, answered from one reading of the node table."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hive.foreman.policy import Policy, gpu_load, told

if TYPE_CHECKING:
    from hive.broker.nodes.requirements import Requirements
    from hive.broker.nodes.table import Node


def select_best_node(
    nodes: Mapping[str, Node], requirements: Requirements | None, policy: Policy
) -> str | None:
    """The least loaded node that is online, has a free slot and satisfies the requirements.

    A draining node is left out, and so is one to which the policy gives no number.

    Ties are broken at random. Returns: its id, or None when there is none.
    """
    free = [
        (load + gpu_load(policy, node, requirements), random.random(), node.node_id)
        for node in nodes.values()
        if node.available
        and node.load.active < node.facts.slots
        and (requirements is None or requirements.fits(node))
        and (load := told(policy.load, node)) is not None
    ]
    return min(free)[2] if free else None


def cluster_status(nodes: Mapping[str, Node], policy: Policy) -> dict[str, Any]:
    """How the cluster is: what `hive status --json` prints of its nodes.

    Averages (percent) and the number of active tasks are those of the nodes online. An offline node
    shows its last measured load and no active tasks, since what it had is given to others.

    policy: whose load is shown of each node as `load_score`; None where it tells none.
    """
    online = [node for node in nodes.values() if node.online]
    return {
        "total_nodes": len(nodes),
        "online_nodes": len(online),
        "offline_nodes": len(nodes) - len(online),
        "avg_cpu_usage": _mean_percent([node.load.cpu for node in online]),
        "avg_memory_usage": _mean_percent([node.load.memory for node in online]),
        "total_active_tasks": sum(node.load.active for node in online),
        "nodes": [_node_status(nodes[node_id], policy) for node_id in sorted(nodes)],
    }


def _node_status(node: Node, policy: Policy) -> dict[str, Any]:
    facts, load = node.facts, node.load
    score = told(policy.load, node)
    return {
        "node_id": facts.node_id,
        "node_name": facts.node_name,
        "host": facts.host,
        "pid": facts.pid,
        "incarnation": facts.incarnation,
        "is_online": node.online,
        "draining": load.draining,
        "slots": facts.slots,
        "active_tasks": load.active if node.online else 0,
        "processed_tasks": load.processed,
        "cpu_usage": _percent(load.cpu),
        "memory_usage": _percent(load.memory),
        "memory_free_mb": load.memory_free_mb,
        "memory_mb": facts.memory_mb,
        "cpus": facts.cpus,
        "load1": load.load1,
        "gpu_available": bool(facts.gpus),
        "gpus": [gpu.model_dump() for gpu in facts.gpus],
        "gpu_usage": _percent(load.gpu) if load.gpu >= 0 else None,
        "labels": facts.labels,
        "capabilities": facts.capabilities,
        "queues": facts.queues,
        "versions": facts.versions,
        "heartbeat_interval": facts.heartbeat_interval,
        "load_score": None if score is None else round(score, 4),
        "started_at": facts.started_at,
        "last_update": node.last_update,
    }


def _percent(share: float) -> float:
    return round(100 * share, 1)


def _mean_percent(shares: list[float]) -> float:
    return _percent(sum(shares) / len(shares)) if shares else 0.0
