"""Which nodes differ from most of the others in what all nodes of a hive should share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hive.broker.nodes.table import Node, NodeFacts

SHOWN = 200
"""Characters of a value in a sentence."""
NAMED = 20
"""So many nodes are named; of the others their number is told."""


def differing_nodes(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """Of the nodes online, those whose heartbeat interval, queues or versions are not those that
    most of them have.

    What a node does not tell, since its release has no word for it, is not compared.

    Returns: for each `node_id`, `differs` (by what, `here` and `most`) and the `sentence` that says
        it, sorted by node id.
    """
    online = sorted((node for node in nodes if node.online), key=lambda node: node.node_id)
    shared = {node.node_id: _shared(node.facts) for node in online}
    counts: dict[str, Counter[str]] = {}
    for facts in shared.values():
        for name, value in facts.items():
            counts.setdefault(name, Counter())[value] += 1
    most = {name: _commonest(values) for name, values in counts.items()}
    differing = []
    for node_id, facts in shared.items():
        differs = {
            name: {"here": value, "most": most[name]}
            for name, value in facts.items()
            if value != most[name]
        }
        if differs:
            told = "; ".join(
                f"{name} {_shortened(values['here'])} (most have {_shortened(values['most'])})"
                for name, values in differs.items()
            )
            differing.append(
                {
                    "node_id": node_id,
                    "differs": differs,
                    "sentence": f"{node_id} differs from most nodes: {told}",
                }
            )
    return differing


def sentences(differing: list[dict[str, Any]]) -> list[str]:
    """A line for each of the first of them, and one for the number of the others."""
    told = [str(node["sentence"]) for node in differing[:NAMED]]
    more = len(differing) - NAMED
    return [*told, f"{more} more nodes differ from most"] if more > 0 else told


def _shared(facts: NodeFacts) -> dict[str, str]:
    """What should be the same everywhere, as text for people."""
    told = {"queues": ", ".join(sorted(facts.queues)) or "none"}
    if facts.heartbeat_interval is not None:
        told["heartbeat interval"] = f"{facts.heartbeat_interval:g} s"
    told |= {name: text for name, text in sorted(facts.versions.items()) if name != "release"}
    return told


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _commonest(values: Counter[str]) -> str:
    """Of two that are equally common, the greater: of two releases as a rule the newer."""
    return max(values, key=lambda value: (values[value], value))
