"""Telling nodes to drain and to take work again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from celery import Celery

from hive.broker.control.broadcast import BroadcastCaller
from hive.broker.control.mailbox import HIVE_COMMAND
from hive.broker.link.client import client_of
from hive.broker.nodes.table import Node
from hive.errors import UnknownNodeError

DRAIN, RESUME = "DRAIN", "RESUME"


def named_nodes(nodes: Mapping[str, Node], names: Iterable[str]) -> list[str]:
    """The ids of online nodes.

    A name is the node's id (`spore-1@host`) or, where that is enough, what is before the @.

    Raises: UnknownNodeError for a name that no online node has, or several have.
    """
    return list(dict.fromkeys(_named_node(nodes, name) for name in names))


def _named_node(nodes: Mapping[str, Node], name: str) -> str:
    found = [node_id for node_id, node in nodes.items() if name in (node_id, node.facts.node_name)]
    online = [node_id for node_id in found if nodes[node_id].online]
    if len(online) == 1:
        return online[0]
    if online:
        raise UnknownNodeError(
            f"Several nodes are called {name!r}; say which: {', '.join(sorted(online))}."
        )
    if found:
        raise UnknownNodeError(f"The node {found[0]} is offline.")
    known = ", ".join(sorted(nodes)) or "none"
    raise UnknownNodeError(f"No node is called {name!r}; known are: {known}.")


def tell(app: Celery, command: str, node_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Send DRAIN or RESUME to these nodes alone, and wait for their answers, three heartbeat
    intervals at most.

    Returns: the answers by node id, `{"ok": …}` or `{"error": …}`; of a node that did not answer,
        an error.
    Raises: BrokerUnreachableError, BrokerAuthError.
    """
    timeout = client_of(app).settings.dead_after
    caller = BroadcastCaller(app)
    try:
        arguments = {"command": command, "arguments": {}}
        replies = caller.call(
            HIVE_COMMAND, arguments, node_ids, timeout=timeout, destination=node_ids
        )
    finally:
        caller.close()
    silent = {"error": f"It did not answer within {timeout:g} s."}
    return {node_id: replies.get(node_id, silent) for node_id in node_ids}


def unfinished(app: Celery, node_id: str) -> int:
    """How many tasks a node still holds: those that run there, and those bound to it.

    Raises redis-py's errors.
    """
    client = client_of(app)
    # No transaction, which a server without memory refuses. A task that starts between the two
    # counts is counted twice, but never left out.
    with client.redis.pipeline(transaction=False) as pipe:
        pipe.zcard(client.key("placed", node_id)).hlen(client.key("reserved", node_id))
        return sum(pipe.execute())
