"""How many pullers a job gets: as many as the nodes that may run it have slots."""

from __future__ import annotations

from typing import Any

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeTable
from hive.errors import NoEligibleNodeError

UNKNOWN = 4
"""Pullers of a job that is made before any node is known; they wait for the first one."""


def eligible_slots(client: BrokerClient, requirements: dict[str, Any] | None) -> int:
    """Slots of the nodes that satisfy the requirements: of those that are available, else of those
    that are known.

    Raises: InvalidInputError for wrong requirements, NoEligibleNodeError when no known node can
        ever satisfy them, redis errors.
    """
    wanted = Requirements.parse(requirements)
    nodes = NodeTable(client).read().values()
    eligible = [node for node in nodes if wanted is None or not wanted.missing(node.facts)]
    if nodes and not eligible and wanted is not None:
        raise NoEligibleNodeError(wanted.refusal(node.facts for node in nodes))
    available = [node for node in eligible if node.available]
    return sum(node.facts.slots for node in available or eligible) or UNKNOWN
