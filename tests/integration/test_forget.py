"""`hive node forget`: a node that is gone leaves the list of nodes, with real spores."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.broker.link.client import client_of
from hive.broker.nodes.forget import forget, gone_node
from hive.broker.nodes.table import NodeTable
from hive.errors import NoEligibleNodeError, UnknownNodeError
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.channel_steps import Steps
from tests.integration.cluster import Cluster
from tests.integration.test_cli import Cli
from tests.nodes import make_facts, make_load

LIVES, GONE = "lives@h", "gone@h"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("forget"))
    try:
        cluster.spawn("lives")
        cluster.wait_online("lives")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cli(cluster: Cluster, tmp_path: Path) -> Cli:
    return Cli(cluster.server.environment, tmp_path)


def listed(cli: Cli) -> list[str]:
    return [node["node_id"] for node in json.loads(cli("node", "list", "--json").stdout)]


def test_a_node_that_is_gone_is_forgotten_by_everybody_and_known_again_once_it_is_back(
    cluster: Cluster, cli: Cli
) -> None:
    reader = NodeTable(client_of(cluster.app))
    spore = cluster.spawn("gone")
    cluster.wait_online("gone")
    assert reader.read().keys() == {LIVES, GONE}
    spore.process.send_signal(signal.SIGTERM)
    spore.process.wait(60)
    assert listed(cli) == [GONE, LIVES]
    waits = jobs.add_numbers.apply_async((4, 4), requirements={"node": GONE})

    done = cli("node", "forget", "gone", "--yes")
    assert done.stdout == f"{GONE} is forgotten\n"
    assert done.stderr == f"tasks that only it may run wait on in venom:pin:{GONE}: 1\n"
    assert listed(cli) == [LIVES]
    assert reader.read().keys() == {LIVES}, "a copy that it was in has lost it, too"

    def send() -> None:
        jobs.add_numbers.apply_async((4, 4), requirements={"node": GONE})

    with pytest.raises(NoEligibleNodeError, match=f"No known node is called {GONE}"):
        wait_until(send, what="this process has learned that it is gone")

    cluster.spawn("gone")
    cluster.wait_online("gone")
    assert reader.read().keys() == {LIVES, GONE}
    assert waits.get(timeout=60) == 8


def test_a_node_that_lives_and_one_that_nobody_knows_are_refused_in_a_sentence(cli: Cli) -> None:
    said = cli("node", "forget", LIVES, "--yes", code=1)
    assert said.stdout == ""
    assert said.stderr.startswith(f"The node {LIVES} is not gone: its last heartbeat was ")
    assert said.stderr.count("\n") == 1
    said = cli("node", "forget", "nobody", "--yes", code=1)
    assert said.stderr == "No node is called 'nobody'; `hive node list` shows the known ones.\n"
    assert listed(cli).count(LIVES) == 1


def test_of_several_each_is_answered(cluster: Cluster, cli: Cli) -> None:
    client = client_of(cluster.app)
    left(cluster, "old@one")
    left(cluster, "old@two")
    names = ("old", "old@one", "lives", "old@two")
    told = json.loads(cli("node", "forget", *names, "--yes", "--json", code=4).stdout)
    assert [(one["node_id"], one.get("pinned"), "error" in one) for one in told] == [
        ("old", None, True),
        ("old@one", 0, False),
        ("lives", None, True),
        ("old@two", 0, False),
    ]
    assert "say which: old@one, old@two" in told[0]["error"]
    with pytest.raises(UnknownNodeError):
        gone_node(client, "old@one")
    with pytest.raises(UnknownNodeError):
        forget(client, "old@one")


def test_a_node_that_nobody_has_declared_dead_yet_is_not_gone(cluster: Cluster, cli: Cli) -> None:
    steps = Steps(client_of(cluster.app))
    left(cluster, "silent@h")
    steps.attach("silent@h/2")
    steps.redis.zadd("venom:beats", {"silent@h/2": steps.now() - 60_000})
    said = cli("node", "forget", "silent", "--yes", code=1).stderr
    assert re.search(r"its last heartbeat was 6\d\.", said)
    steps.restore("silent@h/2")
    assert cli("node", "forget", "silent", "--yes").stdout == "silent@h is forgotten\n"


def left(cluster: Cluster, node_id: str) -> None:
    """A node that was there, and has said goodbye."""
    client = client_of(cluster.app)
    steps, incarnation = Steps(client), f"{node_id}/1"
    steps.attach(incarnation)
    facts = make_facts(node_id, incarnation=incarnation)
    table = NodeTable(client)
    table.beat(incarnation, make_load(), facts, "")
    table.leave(node_id, incarnation)
    steps.restore(incarnation)
