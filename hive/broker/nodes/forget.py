"""Forgets a node that is gone, before its day is over."""

from __future__ import annotations

from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import queue_lists
from hive.broker.link.scripts import Script
from hive.broker.nodes.requirements import Requirements
from hive.errors import HiveError, UnknownNodeError

FORGET = Script("hive.broker.nodes", "forget")


def gone_node(client: BrokerClient, name: str) -> str:
    """The id of a node that the table has, however it is.

    name: the node's id (`spore-1@host`) or, where that is enough, what is before the @.

    Raises: UnknownNodeError for a name that no node has, or several have; redis errors.
    """
    stored: list[bytes] = client.redis.zrange(client.key("nodes", "versions"), 0, -1)
    known = {raw.decode(errors="replace") for raw in stored}
    found = [name] if name in known else [one for one in known if one.partition("@")[0] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownNodeError(
            f"Several nodes are called {name!r}; say which: {', '.join(sorted(found))}."
        )
    raise UnknownNodeError(f"No node is called {name!r}; `hive node list` shows the known ones.")


def pin_queue(node_id: str) -> str:
    """The queue of the tasks that require this very node."""
    return Requirements(node=node_id).home


def forget(client: BrokerClient, node_id: str) -> int:
    """Remove a node that is gone from the node table. It may come back as if it were new.

    Returns: how many tasks are pinned to it, which stay in its `pin_queue`.
    Raises: UnknownNodeError; HiveError while it lives, or was not declared dead yet; redis errors.
    """
    lists = [client.prefix + name for name in queue_lists(pin_queue(node_id))]
    answer, *number = client.run(FORGET, lists, (client.prefix, node_id))
    if answer == b"lives":
        raise HiveError(
            f"The node {node_id} is not gone: its last heartbeat was {number[0] / 1000:.1f} s ago, "
            "and the watchdog has not declared it dead; stop it first, or wait."
        )
    if answer == b"unknown":
        raise UnknownNodeError(f"No node is called {node_id!r} any more.")
    return int(number[0])
