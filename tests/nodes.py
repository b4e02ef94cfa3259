"""Nodes as tests need them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hive.broker.nodes.table import Gpu, Node, NodeFacts, NodeLoad
from hive.settings import Settings

HIGH, BACKGROUND = "venom:tasks:high", "venom:tasks:background"


def make_settings(**values: Any) -> Settings:
    """Settings that no environment and no file has touched, but for the run's own HIVE_HOME."""
    return Settings.model_construct(
        **{
            name: field.get_default(call_default_factory=True)
            for name, field in Settings.model_fields.items()
        }
        | {"hive_home": Path(os.environ.get("HIVE_HOME", "~/.hive")).expanduser()}
        | values
    )


def make_facts(node_id: str = "spore-1@h", **values: Any) -> NodeFacts:
    facts: dict[str, Any] = {
        "node_id": node_id,
        "node_name": node_id.partition("@")[0],
        "host": "h",
        "pid": 1,
        "incarnation": f"{node_id}/00000001",
        "slots": 2,
        "cpus": 4.0,
        "memory_mb": 16_000,
        "queues": [HIGH, BACKGROUND],
        "started_at": 1_000.0,
    }
    return NodeFacts(**facts | values)


def make_load(**values: Any) -> NodeLoad:
    load: dict[str, Any] = {
        "cpu": 0.0,
        "memory": 0.0,
        "memory_free_mb": 8_000,
        "load1": 0.0,
        "active": 0,
        "processed": 0,
        "draining": False,
    }
    return NodeLoad(**load | values)


def make_node(
    node_id: str = "spore-1@h",
    *,
    online: bool = True,
    gpu: bool = False,
    load: NodeLoad | None = None,
    **facts: Any,
) -> Node:
    gpus = [Gpu(name="H200", memory_mb=140_000)] if gpu else []
    return Node(make_facts(node_id, gpus=gpus, **facts), load or make_load(), 2_000.0, online)


def table(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node.node_id: node for node in nodes}
