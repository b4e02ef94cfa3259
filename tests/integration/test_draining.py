"""Draining a node and letting it resume, with a real spore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.broker.channel.steps import ASSIGN
from hive.broker.control.draining import DRAIN, RESUME, named_nodes, tell, unfinished
from hive.broker.link.client import client_of
from hive.broker.nodes.table import Node, NodeTable
from hive.errors import UnknownNodeError
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.channel_steps import Steps
from tests.integration.cluster import Cluster
from tests.integration.test_cli import Cli
from tests.nodes import BACKGROUND, make_node, table

NODE = "a@h"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("draining"))
    try:
        cluster.spawn("a")
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def steps(cluster: Cluster) -> Iterator[Steps]:
    steps = Steps(client_of(cluster.app))
    yield steps
    tell(cluster.app, RESUME, [NODE])
    wait_until(lambda: not node(cluster).load.draining)


@pytest.fixture
def cli(cluster: Cluster, tmp_path: Path) -> Cli:
    return Cli(cluster.server.environment, tmp_path)


def node(cluster: Cluster) -> Node:
    return NodeTable(client_of(cluster.app)).read()[NODE]


def hold(directory: Path) -> tuple[Any, Path]:
    """A task that has begun, and runs until a file is there."""
    begun, go = directory / "begun", directory / "go"
    result = jobs.wait_for.apply_async(kwargs={"begun": str(begun), "go": str(go)})
    wait_until(begun.exists)
    return result, go


def test_it_finishes_what_runs_and_takes_nothing_until_it_resumes(
    cluster: Cluster, steps: Steps, tmp_path: Path
) -> None:
    running, go = hold(tmp_path)
    assert tell(cluster.app, DRAIN, [NODE]) == {NODE: {"ok": {"running": 1, "given_back": 0}}}
    wait_until(lambda: node(cluster).load.draining, what="the node table shows it")
    pinned = jobs.add_numbers.apply_async((3, 4), requirements={"node": NODE})
    waiting = jobs.add_numbers.apply_async((1, 2))
    assert steps.run(ASSIGN, waiting.id, NODE, NODE) == ["moved", NODE], (
        "as a Foreman does who does not know yet"
    )
    wait_until(lambda: unfinished(cluster.app, NODE) == 1, what="what was bound to it goes back")
    go.touch()
    assert running.get(timeout=60) == "went on"
    wait_until(lambda: unfinished(cluster.app, NODE) == 0)
    assert (len(steps.waiting(BACKGROUND)), len(steps.waiting(f"venom:pin:{NODE}"))) == (1, 1)
    assert (waiting.status, pinned.status) == ("PENDING", "PENDING")
    assert tell(cluster.app, RESUME, [NODE]) == {NODE: {"ok": {"running": 0}}}
    assert (waiting.get(timeout=60), pinned.get(timeout=60)) == (3, 7)
    wait_until(lambda: not steps.hash("entries"))


def test_it_goes_on_draining_over_a_lost_connection(cluster: Cluster, steps: Steps) -> None:
    tell(cluster.app, DRAIN, [NODE])
    steps.redis.client_kill_filter(_type="normal", skipme=True)
    steps.redis.client_kill_filter(_type="pubsub", skipme=True)
    waiting = jobs.add_numbers.apply_async((1, 2))
    worker = cluster.spores[0]
    wait_until(lambda: "Connection to broker lost" in worker.output())
    wait_until(lambda: tell(cluster.app, DRAIN, [NODE])[NODE].get("ok"), what="it hears again")
    wait_until(lambda: node(cluster).load.draining, what="its next heartbeat tells of it")
    assert waiting.status == "PENDING"
    tell(cluster.app, RESUME, [NODE])
    assert waiting.get(timeout=60) == 3


def test_the_command_waits_until_nothing_runs_there(
    cluster: Cluster, steps: Steps, cli: Cli, tmp_path: Path
) -> None:
    running, go = hold(tmp_path)
    over = cli("node", "drain", "a", "--wait", "--timeout", "0.3", code=1)
    assert f"tasks still run: 1 on {NODE}" in over.stderr

    def drains() -> bool:
        nodes = json.loads(cli("node", "list", "--json").stdout)
        return [one["draining"] for one in nodes] == [True]

    wait_until(drains, what="its next heartbeat tells of it")
    assert json.loads(cli("node", "drain", NODE, "--json").stdout) == [
        {"node_id": NODE, "running": 1, "given_back": 0}
    ]
    waiting = cli.start("node", "drain", "a", "--wait")
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == f"waiting for tasks: 1 on {NODE}\n"
    go.touch()
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, f"{NODE} drains; 0 running\n")
    assert running.get(timeout=60) == "went on"
    assert cli("node", "resume", "a").stdout == f"{NODE} takes work; 0 running\n"


def test_an_unknown_node_is_said(cli: Cli) -> None:
    assert (
        f"No node is called 'nobody'; known are: {NODE}"
        in cli("node", "drain", "nobody", code=1).stderr
    )
    assert "No node is called 'nobody'" in cli("node", "resume", "a", "nobody", code=1).stderr


def test_a_node_that_does_not_answer_is_said(cluster: Cluster) -> None:
    assert "did not answer" in tell(cluster.app, RESUME, ["ghost@h"])["ghost@h"]["error"]


def test_nodes_are_named_by_their_ids_or_by_what_is_before_the_at() -> None:
    nodes = table(
        [
            make_node("a@h"),
            make_node("b@h"),
            make_node("b@i"),
            make_node("c@h", online=False),
            make_node("c@i"),
        ]
    )
    assert named_nodes(nodes, ["a", "b@i", "a@h", "c"]) == ["a@h", "b@i", "c@i"]
    with pytest.raises(UnknownNodeError, match="say which: b@h, b@i"):
        named_nodes(nodes, ["b"])
    with pytest.raises(UnknownNodeError, match="c@h is offline"):
        named_nodes(nodes, ["c@h"])
    with pytest.raises(UnknownNodeError, match="known are: none"):
        named_nodes({}, ["a"])
