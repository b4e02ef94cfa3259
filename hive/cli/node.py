"""`hive node`: the nodes by themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hive.cli.confirmation import confirmed, yes_option
from hive.cli.items import Seconds
from hive.cli.output import console, exit_code, json_option, note, print_json
from hive.errors import HiveError

if TYPE_CHECKING:
    from hive.broker.link.client import BrokerClient
    from hive.cli.cluster import Cluster

POLL = 0.25

names_argument = click.argument("names", metavar="NODE…", nargs=-1, required=True)


@click.group("node", short_help="Look at the nodes, drain them, let them resume, forget them.")
def node() -> None:
    """Look at the nodes of the cluster, drain them, let them take work again, and forget those that
    are gone.

    \b
    Example:
      hive node list
      hive node drain gpu-1 --wait
    """


@node.command("list", short_help="List the nodes.")
@json_option
def list_nodes(as_json: bool) -> None:
    """List every node seen within a day: load, slots, labels and process id.

    \b
    Example:
      hive node list
      hive node list --json | jq -r '.[] | select(.is_online) | .node_id'
    """
    from hive.broker.nodes.table import NodeTable
    from hive.cli.looking import looking
    from hive.cli.status import node_table
    from hive.foreman.cluster import cluster_status
    from hive.foreman.policy import LoadScore

    with looking() as client:
        nodes = cluster_status(NodeTable(client).read(), LoadScore.of(client.settings))["nodes"]
    if as_json:
        print_json(nodes)
    elif nodes:
        console().print(node_table(nodes))
    else:
        console().print("no node is known; start one with `hive spore`")


@node.command("drain", short_help="Let nodes finish what they run, and take nothing more.")
@names_argument
@click.option("--wait", is_flag=True, help="Return when none of them holds a task any more.")
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="Wait no longer than so.",
)
@json_option
def drain(*, names: tuple[str, ...], wait: bool, timeout: float | None, as_json: bool) -> int:
    """Let nodes finish what they run, give back the rest and take nothing, until `hive node resume`
    or until their workers end.

    Exit code 1 when no node answered, or when the time is over; 4 when some did not answer.

    \b
    Example:
      hive node drain gpu-1 gpu-2@rack7 --wait --timeout 600
    """
    from hive.broker.control.draining import DRAIN, unfinished
    from hive.cli.cluster import connected

    if timeout is not None and not wait:
        raise click.UsageError("--timeout is of --wait.")
    with connected() as cluster:
        told = _tell(cluster, DRAIN, names)
        drained = [one["node_id"] for one in told if "error" not in one]
        if wait:
            _wait_drained(cluster, drained, timeout)
        for one in told:
            if "error" not in one:
                one["running"] = unfinished(cluster.app, one["node_id"])
    return _answer(told, as_json, "drains")


@node.command("resume", short_help="Let drained nodes take work again.")
@names_argument
@json_option
def resume(names: tuple[str, ...], as_json: bool) -> int:
    """Let nodes that drain take work again.

    Exit code 1 when no node answered, 4 when some did not.

    \b
    Example:
      hive node resume gpu-1
    """
    from hive.broker.control.draining import RESUME
    from hive.cli.cluster import connected

    with connected() as cluster:
        told = _tell(cluster, RESUME, names)
    return _answer(told, as_json, "takes work")


@node.command("forget", short_help="Forget nodes that are gone for good.")
@names_argument
@yes_option
@json_option
def forget(names: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Take nodes that are gone out of the list of nodes, where they would stay for a day. Asks
    first. A node that lives is refused, and one that comes back is known again.

    Tasks that require such a node stay in its queue, and wait until it comes back.

    Exit code 4 when some are unknown or live, 1 when all do, or when the answer is no.

    \b
    Example:
      hive node forget gpu-1@rack7
    """
    from hive.broker.nodes.forget import pin_queue
    from hive.cli.looking import looking

    if not confirmed(f"Forget {', '.join(names)}?", yes):
        return 1
    with looking() as client:
        told = [_forgotten(client, name) for name in dict.fromkeys(names)]
    if as_json:
        print_json(told)
    else:
        for one in told:
            if "error" in one:
                note(one["error"])
                continue
            click.echo(f"{one['node_id']} is forgotten")
            if one["pinned"]:
                queue = pin_queue(one["node_id"])
                note(f"tasks that only it may run wait on in {queue}: {one['pinned']}")
    failed = sum("error" in one for one in told)
    return exit_code(len(told) - failed, failed)


def _forgotten(client: BrokerClient, name: str) -> dict[str, Any]:
    """The node's id and how many tasks are pinned to it, or why it was not forgotten."""
    from hive.broker.nodes.forget import forget, gone_node

    try:
        node_id = gone_node(client, name)
        return {"node_id": node_id, "pinned": forget(client, node_id)}
    except HiveError as error:
        return {"node_id": name, "error": str(error)}


def _tell(cluster: Cluster, command: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each of the nodes answers, flat, with its id."""
    from hive.broker.control.draining import named_nodes, tell

    replies = tell(cluster.app, command, named_nodes(cluster.nodes(), names))
    return [{"node_id": node_id} | _told(reply) for node_id, reply in replies.items()]


def _told(reply: object) -> dict[str, Any]:
    """What a node's answer says, or that another release made it, which this one cannot read."""
    ok, error = (reply.get("ok"), reply.get("error")) if isinstance(reply, dict) else (None, None)
    if isinstance(ok, dict) and isinstance(ok.get("running"), int):
        return ok
    return {"error": str(error or f"This release of Hive cannot read its answer {reply!r}.")}


def _wait_drained(cluster: Cluster, node_ids: list[str], timeout: float | None) -> None:
    """Wait until these nodes hold nothing; one that goes offline holds nothing for long.

    Raises: HiveError when the time is over.
    """
    from hive.broker.control.draining import unfinished

    end = None if timeout is None else time.monotonic() + timeout
    said: dict[str, int] = {}
    while True:
        nodes = cluster.nodes()
        online = [name for name in node_ids if name in nodes and nodes[name].online]
        left = {name: count for name in online if (count := unfinished(cluster.app, name))}
        if not left:
            return
        told = ", ".join(f"{count} on {name}" for name, count in left.items())
        if left != said:
            note(f"waiting for tasks: {told}")
            said = left
        if end is not None and time.monotonic() > end:
            raise HiveError(
                f"After {timeout:g} s tasks still run: {told}. The nodes go on draining."
            )
        time.sleep(POLL)


def _answer(told: list[dict[str, Any]], as_json: bool, state: str) -> int:
    """Print what the nodes answered. Returns: the exit code."""
    if as_json:
        print_json(told)
    else:
        for one in told:
            if "error" in one:
                note(f"{one['node_id']}: {one['error']}")
            else:
                click.echo(f"{one['node_id']} {state}; {one['running']} running")
    failed = sum("error" in one for one in told)
    return exit_code(len(told) - failed, failed)
