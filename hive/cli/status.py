"""`hive status`: the cluster at one glance."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from hive.cli.output import console, json_option, print_json, seconds, seen, table

if TYPE_CHECKING:
    from rich.table import Table

    from hive.broker.ledger.account import Alarm
    from hive.broker.ledger.waiting import MemoryWait
    from hive.foreman.watch.duty import DutyState


@click.command("status", short_help="Show the nodes and the queues.")
@json_option
def status(as_json: bool) -> None:
    """Show the cluster: its nodes with their load, and what waits in its queues.

    \b
    Example:
      hive status
      hive status --json | jq '.nodes[] | {node_id, load_score}'
    """
    from hive.broker.ledger.account import Ledger
    from hive.broker.ledger.aside import put_aside
    from hive.broker.ledger.queue_stats import queue_stats
    from hive.broker.ledger.waiting import memory_waits
    from hive.broker.nodes.table import NodeTable
    from hive.cli.looking import looking
    from hive.cli.queue import queue_table
    from hive.foreman.cluster import cluster_status
    from hive.foreman.differences import differing_nodes, sentences
    from hive.foreman.policy import LoadScore
    from hive.foreman.watch.duty import duty_states

    with looking() as client:
        nodes = NodeTable(client).read()
        found = cluster_status(nodes, LoadScore.of(client.settings))
        alarm = Ledger(client).alarm()
        failing = [state for state in duty_states(client) if state.error]
        waits = memory_waits(client, nodes)
        differing = differing_nodes(nodes.values())
        aside = put_aside(client)
        last = aside[0].sentence if aside else None
        if as_json:
            faults = {"alarm": told(alarm), "failing_duties": list(map(told, failing))}
            more = {"put_aside": len(aside), "last_put_aside": last, "differing_nodes": differing}
            waiting = {"waiting_for_memory": [told_wait(wait) for wait in waits]}
            print_json({**found, **faults, **more, **waiting})
            return
        stats = queue_stats(client)
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
    for wait in waits:
        out.print(wait.sentence, markup=False, soft_wrap=True)
    for line in sentences(differing):
        out.print(seen(f"DIFFERS: {line}"), markup=False, style="yellow", soft_wrap=True)
    said = [f"FAILING: {state.sentence}" for state in failing]
    if alarm is not None:
        said.append(f"ALARM: {alarm.sentence}; `hive account` tells more")
    if last is not None:
        said.append(f"PUT ASIDE: {len(aside)}, the last {last}")
    for fault in said:
        out.print(seen(fault), markup=False, style="bold red")


def told(fault: Alarm | DutyState | None) -> dict[str, Any] | None:
    """A fault as JSON has it, with its sentence for people; None stays None."""
    return None if fault is None else {**fault.model_dump(), "sentence": fault.sentence}


def told_wait(wait: MemoryWait) -> dict[str, Any]:
    """Tasks that wait for memory, as JSON has them."""
    return {**dataclasses.asdict(wait), "sentence": wait.sentence}


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
        "–" if node["load_score"] is None else f"{node['load_score']:.2f}",
    )
    return node["node_id"], state, *busy, gpu, labels, node["pid"], f"{seconds(ago)} ago"
