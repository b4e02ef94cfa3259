"""Ranking: who is offered a task, in which order, and what an own assignment changes."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.errors import NoEligibleNodeError
from hive.foreman import ranking
from hive.foreman.policy import LoadScore
from hive.foreman.ranking import HashRing, Rankings
from hive.foreman.score import Weights
from tests.nodes import BACKGROUND, HIGH, make_load, make_node, table


def rankings(*nodes: Node, weights: Weights | None = None) -> Rankings:
    return Rankings(table(nodes), LoadScore(weights))


def names(candidates: list[Any]) -> list[str]:
    return [candidate[0] for candidate in candidates]


def test_the_least_loaded_come_first_with_slots_and_machine_score() -> None:
    found = rankings(
        make_node("b@h", load=make_load(cpu=0.5, memory=0.5), slots=4),
        make_node("a@h", load=make_load(cpu=0.1, active=1)),
        make_node("c@h"),
    ).decide(BACKGROUND, None, None)
    assert found == [["c@h", 2, 0.0], ["a@h", 2, 0.04], ["b@h", 4, 0.35]]


def test_at_most_five_are_offered() -> None:
    found = rankings(
        *(make_node(f"n{number}@h", load=make_load(cpu=number / 10)) for number in range(9))
    ).decide(HIGH, None, None)
    assert names(found) == [f"n{number}@h" for number in range(5)]


def test_offline_draining_and_nodes_of_other_queues_are_left_out() -> None:
    table_of = rankings(
        make_node("offline@h", online=False),
        make_node("draining@h", load=make_load(draining=True)),
        make_node("video@h", queues=["video"]),
        make_node("good@h"),
    )
    assert names(table_of.decide(BACKGROUND, None, None)) == ["good@h"]
    assert names(table_of.decide("video", None, None)) == ["video@h"]
    assert table_of.decide("nowhere", None, None) == []


def test_a_free_node_comes_before_a_full_one_whatever_its_load() -> None:
    found = rankings(
        make_node("full@h", load=make_load(active=2)),
        make_node("hot@h", load=make_load(cpu=1.0, memory=1.0, active=1)),
    )
    assert names(found.decide(BACKGROUND, None, None)) == ["hot@h", "full@h"]


def test_own_assignments_spread_a_burst_evenly() -> None:
    table_of = rankings(*(make_node(f"n{number}@h", slots=4) for number in range(10)))
    firsts = Counter(table_of.decide(BACKGROUND, None, None)[0][0] for _ in range(40))
    assert set(firsts.values()) == {4}


def test_own_assignments_last_until_the_nodes_next_beat() -> None:
    old = rankings(make_node("a@h", slots=10), make_node("b@h", slots=10, load=make_load(cpu=0.05)))
    for _ in range(3):
        # A, then b: a tenth of its slots is worth more than 5% of CPU; then a again.
        old.decide(BACKGROUND, None, None)
    silent = old.following(old.nodes)
    assert names(silent.decide(BACKGROUND, None, None)) == ["b@h", "a@h"]
    beaten = old.following(old.nodes | table([make_node("a@h", slots=10)]))
    assert names(beaten.decide(BACKGROUND, None, None)) == ["a@h", "b@h"]


def test_the_tasks_weight_decides_how_much_a_taken_slot_is_worth() -> None:
    nodes = [make_node("a@h", load=make_load(active=1)), make_node("b@h", load=make_load(cpu=0.2))]
    assert names(rankings(*nodes, weights=Weights(tasks=0.3)).decide(HIGH, None, None)) == [
        "b@h",
        "a@h",
    ]
    assert names(rankings(*nodes, weights=Weights(tasks=0.1)).decide(HIGH, None, None)) == [
        "a@h",
        "b@h",
    ]


def test_ties_are_broken_at_random() -> None:
    nodes = [make_node(f"n{number}@h") for number in range(3)]
    firsts = Counter(rankings(*nodes).decide(BACKGROUND, None, None)[0][0] for _ in range(300))
    assert len(firsts) == 3
    assert min(firsts.values()) > 50


def test_only_nodes_that_fit_the_requirements_are_offered() -> None:
    table_of = rankings(make_node("gpu@h", gpu=True, load=make_load(cpu=0.9)), make_node("plain@h"))
    assert names(table_of.decide(BACKGROUND, Requirements(gpu=True), None)) == ["gpu@h"]
    assert names(table_of.decide(BACKGROUND, Requirements(node="plain@h"), None)) == ["plain@h"]


@pytest.mark.parametrize(
    "busy",
    [
        make_node("gpu@h", gpu=True, online=False),
        make_node("gpu@h", gpu=True, load=make_load(draining=True)),
        make_node("gpu@h", gpu=True, queues=["other"]),
        make_node("gpu@h", gpu=True, load=make_load(memory_free_mb=10)),
    ],
)
def test_a_task_waits_for_a_node_that_may_satisfy_it_later(busy: Node) -> None:
    requirements = Requirements(gpu=True, memory_mb=1_000)
    assert rankings(busy, make_node("plain@h")).decide(BACKGROUND, requirements, None) == []


def test_with_an_empty_table_a_task_waits() -> None:
    assert rankings().decide(BACKGROUND, Requirements(gpu=True), "model-7") == []


@pytest.mark.parametrize("queue", [BACKGROUND, None])
def test_what_no_known_node_can_ever_satisfy_is_refused(queue: str | None) -> None:
    with pytest.raises(NoEligibleNodeError, match="requires a GPU, which none of the 1 known node"):
        rankings(make_node()).decide(queue, Requirements(gpu=True), None)


def test_a_key_has_one_node_which_is_preferred() -> None:
    table_of = rankings(
        *(make_node(f"n{number}@h", load=make_load(cpu=number / 20)) for number in range(20))
    )
    owners = {}
    for key in (f"model-{number}" for number in range(40)):
        found = table_of.decide(BACKGROUND, None, key)
        assert found[0][2] == -1
        assert len(set(names(found))) == len(found) == 5
        owners[key] = found[0][0]
    assert len(set(owners.values())) > 5
    assert {key: table_of.decide(BACKGROUND, None, key)[0][0] for key in owners} == owners


def test_a_key_moves_only_when_its_node_goes_and_returns_with_it() -> None:
    nodes = table(make_node(f"n{number}@h") for number in range(10))
    keys = [f"model-{number}" for number in range(100)]
    before = Rankings(nodes, LoadScore())
    owners = {key: before.decide(HIGH, None, key)[0][0] for key in keys}
    without = before.following(nodes | table([make_node("n3@h", online=False)]))
    moved = {key for key in keys if without.decide(HIGH, None, key)[0][0] != owners[key]}
    assert moved == {key for key in keys if owners[key] == "n3@h"}
    again = without.following(nodes)
    assert {key: again.decide(HIGH, None, key)[0][0] for key in keys} == owners


def test_the_ring_is_the_same_in_every_process_and_skips_whom_it_may_not_use() -> None:
    ring = HashRing(["a@h", "b@h", "c@h"])
    everyone = {"a@h": 0, "b@h": 0, "c@h": 0}
    assert [ring.owner(f"model-{number}", everyone) for number in range(6)] == [
        "a@h",
        "b@h",
        "c@h",
        "b@h",
        "b@h",
        "b@h",
    ]
    assert ring.owner("model-7", {"b@h": 0}) == "b@h"
    assert ring.owner("model-7", {}) is None


def test_a_new_reading_rebuilds_what_is_in_use_and_keeps_the_number_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table_of = rankings(make_node())
    for number in range(ranking.RANKINGS_KEPT + 20):
        table_of.decide(f"queue-{number}", None, None)
    assert len(table_of._kept) == ranking.RANKINGS_KEPT
    assert len(table_of.following(table_of.nodes)._kept) == ranking.RANKINGS_KEPT
    monkeypatch.setattr(ranking, "UNUSED_AFTER", -1.0)
    assert not table_of.following(table_of.nodes)._kept


def test_many_threads_get_whole_answers() -> None:
    table_of = rankings(*(make_node(f"n{number}@h", slots=100) for number in range(8)))
    firsts: list[str] = []

    def ask() -> None:
        for _ in range(200):
            found = table_of.decide(BACKGROUND, None, None)
            assert len(set(names(found))) == 5
            firsts.append(str(found[0][0]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Counter(firsts).values()) == {100}
