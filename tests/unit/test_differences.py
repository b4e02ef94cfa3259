"""Nodes that differ from most of the others."""

from __future__ import annotations

from typing import Any

from hive.broker.nodes.table import Node
from hive.foreman.differences import NAMED, differing_nodes, sentences
from tests.nodes import BACKGROUND, HIGH, make_node


def node(name: str, **facts: Any) -> Node:
    versions = {"hive": "0.2.0", "release": "0.2.0", "celery": "5.6.0"}
    return make_node(name, **{"heartbeat_interval": 1.0, "versions": versions} | facts)


def test_nodes_that_are_alike_differ_in_nothing() -> None:
    assert differing_nodes([node("a@h"), node("b@h", queues=[BACKGROUND, HIGH])]) == []
    assert differing_nodes([]) == []


def test_a_node_is_named_with_what_it_has_and_what_most_have() -> None:
    versions = {"hive": "0.1.0", "release": "0.1.0", "celery": "5.6.0"}
    odd = node("c@h", heartbeat_interval=5.0, queues=[HIGH], versions=versions)
    (told,) = differing_nodes([odd, node("a@h"), node("b@h")])
    assert told["node_id"] == "c@h"
    assert told["differs"] == {
        "queues": {"here": HIGH, "most": f"{BACKGROUND}, {HIGH}"},
        "heartbeat interval": {"here": "5 s", "most": "1 s"},
        "hive": {"here": "0.1.0", "most": "0.2.0"},
    }
    assert "heartbeat interval 5 s (most have 1 s)" in told["sentence"]


def test_a_release_that_does_not_tell_its_interval_is_not_compared_in_it() -> None:
    assert differing_nodes([node("a@h"), node("b@h", heartbeat_interval=None)]) == []


def test_of_two_releases_as_common_the_older_is_named() -> None:
    old = node("a@h", versions={"hive": "0.1.0"})
    new = node("b@h", versions={"hive": "0.2.0"})
    assert [told["node_id"] for told in differing_nodes([old, new])] == ["a@h"]


def test_a_node_that_is_offline_is_not_compared() -> None:
    gone = make_node("c@h", online=False, heartbeat_interval=5.0)
    assert differing_nodes([node("a@h"), node("b@h"), gone]) == []


def test_only_some_are_named_and_a_long_list_is_cut() -> None:
    queues = [f"queue-{number}" for number in range(1000)]
    odd = [node(f"odd-{number}@h", queues=queues[number:]) for number in range(NAMED + 3)]
    said = sentences(differing_nodes([node(f"n-{n}@h") for n in range(NAMED + 5)] + odd))
    assert len(said) == NAMED + 1
    assert said[-1] == "3 more nodes differ from most"
    assert max(map(len, said)) < 1000
