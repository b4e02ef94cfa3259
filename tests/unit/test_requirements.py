"""Requirements: what is accepted, what a node lacks, how a refusal reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hive.broker.nodes.requirements import Requirements
from hive.errors import InvalidInputError
from tests.nodes import make_facts, make_load, make_node


def parse(**given: Any) -> Requirements:
    requirements = Requirements.parse(given)
    assert requirements is not None
    return requirements


@pytest.mark.parametrize(
    "given", [None, {}, {"gpu": False}, {"labels": {}, "memory_mb": 0}, Requirements()]
)
def test_what_demands_nothing_is_no_requirement(given: object) -> None:
    assert Requirements.parse(given) is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"gpus": 1}, "gpus: there is no such requirement"),
        ({"gpu": "yes"}, "gpu"),
        ({"memory_mb": -1}, "memory_mb"),
        ({"memory_mb": "much"}, "memory_mb"),
        ({"cpus": float("inf")}, "cpus"),
        ({"labels": {"zone": ["a"]}}, r"labels\.zone"),
        ({"labels": object()}, "is not a text, number, list or dict"),
        ({"capabilities": "summarize"}, "capabilities"),
        ({"node": ""}, "node"),
        ("gpu", "requirements is a dict"),
        (["gpu"], "requirements is a dict"),
        ({1: 2, "gpu": True}, "requirements cannot be"),
    ],
)
def test_wrong_requirements_are_named_with_the_known_ones(given: object, fault: str) -> None:
    with pytest.raises(InvalidInputError, match=fault) as raised:
        Requirements.parse(given)
    assert "Known: gpu, memory_mb, cpus, labels, capabilities, node." in raised.value.message


def test_equal_requirements_share_a_digest_however_they_are_written() -> None:
    one = parse(cpus=2, gpu=True, capabilities=["b", "a"], labels={"x": "1", "y": "2"})
    other = parse(
        labels={"y": "2", "x": "1"}, capabilities={"a", "b"}, gpu=True, cpus=2.0, memory_mb=0
    )
    assert one.digest == other.digest
    assert one.home == f"venom:req:{one.digest}"
    assert parse(cpus=3).digest != parse(memory_mb=3).digest


def test_requirements_survive_json() -> None:
    requirements = parse(
        gpu=True, memory_mb=10, cpus=1.5, labels={"zone": "a"}, capabilities=["fetch"], node="n@h"
    )
    again = Requirements.parse(json.loads(json.dumps(requirements.demands)))
    assert again == requirements
    assert again.digest == requirements.digest


def test_a_required_node_is_the_home() -> None:
    assert parse(node="spore-1@h", gpu=True).home == "venom:pin:spore-1@h"


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ({"gpu": True}, ["a GPU"]),
        ({"memory_mb": 16_000}, []),
        ({"memory_mb": 16_001}, ["16001 MB of memory"]),
        ({"cpus": 4}, []),
        ({"cpus": 4.5}, ["4.5 cpus"]),
        ({"labels": {"zone": "a", "disk": "ssd"}}, ["the label disk=ssd"]),
        ({"labels": {"zone": "b"}}, ["the label zone=b"]),
        ({"capabilities": ["fetch", "train", "paint"]}, ["the skill paint", "the skill train"]),
        ({"node": "spore-1@h"}, []),
        ({"node": "other@h"}, ["to be the node other@h"]),
    ],
)
def test_what_a_node_lacks_for_ever(given: dict[str, Any], lacks: list[str]) -> None:
    facts = make_facts(labels={"zone": "a"}, capabilities=["fetch"])
    assert parse(**given).missing(facts) == lacks


def test_memory_must_also_be_free() -> None:
    node = make_node(memory_mb=16_000, load=make_load(memory_free_mb=1_000))
    assert parse(memory_mb=1_000).fits(node)
    assert not parse(memory_mb=1_001).fits(node)
    assert parse(memory_mb=1_001).missing(node.facts) == []


def test_a_refusal_names_what_no_node_has() -> None:
    known = [make_facts("a@h"), make_facts("b@h", labels={"zone": "a"})]
    message = parse(gpu=True, labels={"zone": "a"}).refusal(known)
    assert message.startswith("The task requires a GPU, which none of the 2 known nodes has.")


def test_a_refusal_names_the_closest_node_where_only_the_combination_is_missing() -> None:
    known = [make_node("a@h", gpu=True).facts, make_facts("b@h", labels={"zone": "a"}, cpus=1.0)]
    message = parse(gpu=True, labels={"zone": "a"}, cpus=2).refusal(known)
    assert "not met together by any of the 2 known nodes" in message
    assert message.endswith("a@h lacks the label zone=a.")


def test_a_refusal_of_an_unknown_node_lists_the_known() -> None:
    message = parse(node="nobody@h").refusal(make_facts(f"n{number:02}@h") for number in range(12))
    assert message.startswith("No known node is called nobody@h; known are n00@h, n01@h")
    assert message.endswith("n09@h and 2 more.")


def test_a_refusal_by_the_required_node_names_what_that_one_lacks() -> None:
    message = parse(node="a@h", gpu=True).refusal(
        [make_facts("a@h"), make_node("b@h", gpu=True).facts]
    )
    assert message.endswith("a@h lacks a GPU.")
