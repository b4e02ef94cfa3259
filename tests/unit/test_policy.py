"""Policies: what is made of the numbers that they give, and of those that they do not."""

from __future__ import annotations

from typing import Any

import pytest

from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.foreman.cluster import cluster_status, select_best_node
from hive.foreman.policy import LoadScore, Policy
from hive.foreman.ranking import Rankings
from tests.nodes import BACKGROUND, make_load, make_node, table


class Cheapest(Policy):
    """By the label `price`, which one node may lack."""

    def machine(self, node: Node) -> float:
        return float(node.facts.labels["price"])


def priced(name: str, price: str, **load: Any) -> Node:
    return make_node(name, load=make_load(**load), labels={"price": price} if price else {})


def offered(policy: Policy, *nodes: Node) -> list[str]:
    candidates = Rankings(table(nodes), policy).decide(BACKGROUND, None, None)
    return [str(candidate[0]) for candidate in candidates]


def test_nodes_are_offered_in_the_policys_order_and_not_by_their_load() -> None:
    cheap, dear = priced("cheap@h", "1", cpu=1.0), priced("dear@h", "5")
    assert offered(Cheapest(), dear, cheap) == ["cheap@h", "dear@h"]
    assert offered(LoadScore(), dear, cheap) == ["dear@h", "cheap@h"]


def test_a_full_node_comes_last_whatever_the_policy_says_of_it() -> None:
    cheap, dear = priced("cheap@h", "1", active=2), priced("dear@h", "5000")
    assert offered(Cheapest(), cheap, dear) == ["dear@h", "cheap@h"]


@pytest.mark.parametrize("price", ["", "much", "nan", "inf"])
def test_a_node_for_which_it_gives_no_number_is_offered_nothing(
    price: str, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = priced("cheap@h", "1"), priced("odd@h", price)
    assert offered(Cheapest(), *nodes) == ["cheap@h"]
    assert select_best_node(table(nodes), None, Cheapest()) == "cheap@h"
    shown = {
        node["node_id"]: node["load_score"]
        for node in cluster_status(table(nodes), Cheapest())["nodes"]
    }
    assert shown == {"cheap@h": 1.0, "odd@h": None}


def test_a_policy_is_asked_of_a_node_once_a_beat(caplog: pytest.LogCaptureFixture) -> None:
    nodes = table([priced("odd@h", "much"), priced("cheap@h", "1")])
    rankings = Rankings(nodes, Cheapest())
    for _ in range(3):
        rankings.decide(BACKGROUND, Requirements.parse({"node": "odd@h"}), None)
        rankings.decide(BACKGROUND, None, None)
        rankings = rankings.following(dict(nodes))
    assert caplog.text.count("event=policy_failed") == 1
    beaten = {**nodes, "odd@h": priced("odd@h", "more")}
    rankings.following(beaten).decide(BACKGROUND, None, None)
    assert caplog.text.count("event=policy_failed") == 2


def test_a_number_below_zero_counts_as_zero() -> None:
    candidates = Rankings(table([priced("a@h", "-3")]), Cheapest()).decide(BACKGROUND, None, None)
    assert candidates == [["a@h", 2, 0.0]]


def test_what_is_shown_as_load_counts_the_share_of_slots_that_is_taken() -> None:
    assert Cheapest().load(priced("a@h", "1", active=1)) == pytest.approx(1.15)
    assert LoadScore().load(priced("a@h", "1", active=1)) == pytest.approx(0.03)


def gpu_nodes() -> tuple[Node, ...]:
    return (
        make_node("busy@h", gpu=True, load=make_load(cpu=0.0, gpu=0.9), labels={"price": "1"}),
        make_node("idle@h", gpu=True, load=make_load(cpu=0.2, gpu=0.1), labels={"price": "1.1"}),
        make_node("silent@h", gpu=True, load=make_load(cpu=0.9, gpu=-1), labels={"price": "2"}),
    )


@pytest.mark.parametrize("policy", [LoadScore(), Cheapest()])
def test_the_load_of_gpus_counts_for_tasks_that_require_one(policy: Policy) -> None:
    nodes, gpu = gpu_nodes(), Requirements(gpu=True)
    rankings = Rankings(table(nodes), policy)
    by_gpu = [candidate[0] for candidate in rankings.decide(BACKGROUND, gpu, None)]
    assert by_gpu[0] == "idle@h" == select_best_node(table(nodes), gpu, policy)
    assert offered(policy, *nodes)[0] == "busy@h" == select_best_node(table(nodes), None, policy)


def test_how_much_a_busy_gpu_is_worth_is_the_policys() -> None:
    class Careless(Cheapest):
        gpu_weight = 0.0

    candidates = Rankings(table(gpu_nodes()), Careless()).decide(
        BACKGROUND, Requirements(gpu=True), None
    )
    assert candidates[0][0] == "busy@h"
