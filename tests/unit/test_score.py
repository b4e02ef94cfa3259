"""The load score, and what is answered from it about the cluster."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.broker.nodes.requirements import Requirements
from hive.foreman.cluster import cluster_status, select_best_node
from hive.foreman.policy import LoadScore
from hive.foreman.score import Weights, load_score
from tests.nodes import make_load, make_node, make_settings, table

shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("cpu", "memory", "active", "score"),
    [
        (0, 0, 0, 0.0),
        (1, 0, 0, 0.4),
        (0, 1, 0, 0.3),
        (0, 0, 5, 0.15),
        (0, 0, 10, 0.3),
        (0, 0, 64, 0.3),
        (0.5, 0.5, 2, 0.41),
        (1, 1, 10, 1.0),
    ],
)
def test_the_missions_formula(cpu: float, memory: float, active: int, score: float) -> None:
    assert load_score(cpu, memory, active) == pytest.approx(score)


def test_the_weights_are_settings() -> None:
    settings = make_settings(
        foreman_cpu_weight=1.0,
        foreman_memory_weight=0.0,
        foreman_tasks_weight=2.0,
        foreman_max_tasks_normalization=4,
    )
    assert load_score(0.5, 0.9, 2, Weights.of(settings)) == pytest.approx(1.5)


@given(shares, shares, st.integers(0, 100))
def test_more_load_never_scores_less(cpu: float, memory: float, active: int) -> None:
    score = load_score(cpu, memory, active)
    assert 0 <= score <= 1.0 + 1e-9
    assert load_score(min(cpu + 0.1, 1), memory, active) >= score
    assert load_score(cpu, min(memory + 0.1, 1), active) >= score
    assert load_score(cpu, memory, active + 1) >= score


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_a_probes_outlier_is_clipped(cpu: float, memory: float) -> None:
    assert 0 <= load_score(cpu, memory, 0) <= 0.7 + 1e-9


def test_the_least_loaded_free_node_is_selected() -> None:
    nodes = table(
        [
            make_node("busy@h", load=make_load(cpu=0.9)),
            make_node("idle@h", load=make_load(cpu=0.2)),
            make_node("full@h", load=make_load(active=2)),
            make_node("draining@h", load=make_load(draining=True)),
            make_node("offline@h", online=False),
        ]
    )
    assert select_best_node(nodes, None, LoadScore()) == "idle@h"


def test_selection_obeys_requirements() -> None:
    nodes = table([make_node("plain@h"), make_node("gpu@h", gpu=True, load=make_load(cpu=0.9))])
    assert select_best_node(nodes, Requirements(gpu=True), LoadScore()) == "gpu@h"
    assert select_best_node(nodes, Requirements(labels={"zone": "a"}), LoadScore()) is None
    assert select_best_node({}, None, LoadScore()) is None


def test_ties_are_broken_at_random() -> None:
    nodes = table(make_node(f"n{number}@h") for number in range(3))
    chosen = Counter(select_best_node(nodes, None, LoadScore()) for _ in range(300))
    assert set(chosen) == set(nodes)
    assert min(chosen.values()) > 50


def test_the_cluster_status_counts_what_is_online() -> None:
    nodes = table(
        [
            make_node(
                "a@h",
                gpu=True,
                load=make_load(cpu=0.2, memory=0.4, active=1, gpu=0.5),
                capabilities=["summarize"],
            ),
            make_node("b@h", load=make_load(cpu=0.4, memory=0.6, active=2, draining=True)),
            make_node("c@h", online=False, load=make_load(cpu=1.0, memory=1.0, active=2)),
        ]
    )
    status = cluster_status(nodes, LoadScore())
    assert {key: value for key, value in status.items() if key != "nodes"} == {
        "total_nodes": 3,
        "online_nodes": 2,
        "offline_nodes": 1,
        "avg_cpu_usage": 30.0,
        "avg_memory_usage": 50.0,
        "total_active_tasks": 3,
    }
    first, second, third = status["nodes"]
    assert first["node_id"] == "a@h"
    assert first["load_score"] == pytest.approx(0.2 * 0.4 + 0.4 * 0.3 + 0.1 * 0.3)
    assert (first["gpu_available"], first["gpu_usage"], first["capabilities"]) == (
        True,
        50.0,
        ["summarize"],
    )
    assert (second["draining"], second["gpu_available"], second["gpu_usage"]) == (True, False, None)
    assert (third["is_online"], third["cpu_usage"], third["active_tasks"]) == (False, 100.0, 0)


def test_the_status_of_no_node_at_all() -> None:
    status = cluster_status({}, LoadScore())
    assert status["nodes"] == []
    assert status["avg_cpu_usage"] == 0.0
