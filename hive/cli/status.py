"""`hive status`: the cluster at one glance."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
from rich.table import Table

from hive.cli.output import console, json_option, print_json, seconds, table


@click.command("status", short_help="Show the nodes and the queues.")
@json_option
def status(as_json: bool) -> None:
    """Show the cluster: its nodes with their load, and what waits in its queues.

    \b
    Example:
      hive status
      hive status --json | jq '.nodes[] | {node_id, load_score}'
    """
    from hive.broker.ledger.account import Conservation
    from hive.cli.cluster import connected
    from hive.cli.queue import queue_stats, queue_table
    from hive.foreman.cluster import cluster_status

    with connected() as cluster:
        found = cluster_status(cluster.nodes(), cluster.client.settings)
        alarm = Conservation(cluster.client).alarm()
        if as_json:
            print_json(
                found | {"alarm": alarm and {**alarm.model_dump(), "sentence": alarm.sentence}}
            )
            return
        stats = asyncio.run(queue_stats())
    out = console()
    out.print(
        f"{found['online_nodes']} of {found['total_nodes']} nodes online, "
        f"{found['total_active_tasks']} active tasks, "
        f"CPU {found['avg_cpu_usage']} %, memory {found['avg_memory_usage']} %"
    )
    if found["nodes"]:
        out.print(node_table(found["nodes"]))
    if not found["online_nodes"]:
        out.print("no spore is online; start one with `hive spore`")
    out.print(queue_table(stats))
    if alarm is not None:
        out.print(
            f"ALARM: {alarm.sentence}; `hive audit` tells more", markup=False, style="bold red"
        )


def node_table(nodes: list[dict[str, Any]]) -> Table:
    """The table of `hive status` and `hive node list`; nodes as cluster_status() has them."""
    columns = (
        "node",
        "state",
        "tasks",
        "CPU %",
        "memory %",
        "load",
        "GPU",
        "labels",
        "pid",
        "last beat",
    )
    return table(
        "nodes",
        columns,
        [_row(node) for node in nodes],
        right=("tasks", "CPU %", "memory %", "load", "pid", "last beat"),
    )


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    state = "offline" if not node["is_online"] else "draining" if node["draining"] else "online"
    ago = max(0.0, time.time() - node["last_update"])
    labels = ",".join(f"{name}={value}" for name, value in node["labels"].items())
    gpu = ", ".join(gpu["name"] for gpu in node["gpus"]) or "–"
    busy = (
        f"{node['active_tasks']}/{node['slots']}",
        node["cpu_usage"],
        node["memory_usage"],
        f"{node['load_score']:.2f}",
    )
    return node["node_id"], state, *busy, gpu, labels, node["pid"], f"{seconds(ago)} ago"
