"""ParallelSkill against a real broker and real spores: JSON text in and out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hive
import hive.testing
from hive.agents.parallel_skill import ParallelSkill
from hive.broker.message_broker import MessageBroker
from hive.settings import Settings
from hive.testing import Cluster
from tests.harness import BrokerServer, free_port, wait_until
from tests.integration import jobs
from tests.integration.jobs_app import JOBS

TROUBLE = """\
import subprocess
subprocess.call('ls ' + input(), shell=True)
password = 'correct-horse-battery'
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, spores=2) as started:
        yield started


@pytest.fixture
def skill(cluster: Cluster, tmp_path: Path) -> ParallelSkill:
    return ParallelSkill(MessageBroker(cluster.app), tmp_path)


@pytest.fixture
def idle(broker_server: BrokerServer) -> ParallelSkill:
    """On a broker without any spore."""
    with broker_server.client() as client:
        client.flushall()
    app = hive.install(
        Celery("idle"), Settings.load(redis_host="127.0.0.1", redis_port=broker_server.port)
    )
    return ParallelSkill(MessageBroker(app))


def answer(work: Coroutine[Any, Any, str]) -> dict[str, Any]:
    parsed = json.loads(asyncio.run(work))
    assert set(parsed) - {"error"} == {"summary", "results", "job_id"}
    return dict(parsed)


def test_every_item_has_its_result_and_one_bad_item_never_sinks_the_rest(
    skill: ParallelSkill,
) -> None:
    items = [{"a": 1, "b": 2}, 5, {"a": "one"}, {"a": 3}]
    got = answer(
        skill.map_reduce(
            "Add the numbers", json.dumps(items), priority="high_priority", wait_timeout=30
        )
    )
    assert "error" not in got
    assert got["summary"] == {
        "total_tasks": 4,
        "completed": 3,
        "failed": 1,
        "pending": 0,
        "success_rate": 0.75,
    }
    assert [(one["item_index"], one["status"], one["result"]) for one in got["results"]] == [
        (0, "completed", 3),
        (1, "completed", 5),
        (2, "failed", None),
        (3, "completed", 3),
    ]
    assert "a: " in got["results"][2]["error"]
    assert {one["node"] for one in got["results"]} <= {"spore-1@test", "spore-2@test"}
    assert got == answer(skill.get_task_status(got["job_id"]))


def test_what_is_not_over_when_the_wait_ends_is_pending_and_goes_on(
    skill: ParallelSkill, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    items = json.dumps([{"begun": str(begun), "go": str(go)}, {"begun": str(begun), "go": "/"}])
    got = answer(skill.map_reduce("wait_for", items, wait_timeout=2))
    assert [one["status"] for one in got["results"]] == ["pending", "completed"]
    assert got["summary"]["pending"] == 1
    assert "error" not in got
    go.touch()
    assert wait_until(
        lambda: answer(skill.get_task_status(got["job_id"]))["summary"]["completed"] == 2
    )


def test_a_repository_is_audited_by_two_skills_side_by_side(
    skill: ParallelSkill, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text(TROUBLE)
    (tmp_path / "requirements.txt").write_text("requests\nflask==3.0.0\n")
    subtasks = json.dumps(
        ["Scan /src directory", "Scan requirements.txt dependencies", "Bake a cake"]
    )
    got = answer(skill.parallel_execute("Repository security audit", subtasks, wait_timeout=60))
    assert [one["status"] for one in got["results"]] == ["completed", "completed", "failed"]
    assert got["summary"]["success_rate"] == pytest.approx(2 / 3, abs=1e-3)
    source, requirements, cake = got["results"]
    assert {finding["path"] for finding in source["result"]["findings"]} == {
        str(tmp_path / "src" / "app.py")
    }
    assert any("requests" in finding["text"] for finding in requirements["result"]["findings"])
    assert "Bake a cake" in cake["error"]
    assert "scan_path" in cake["error"]
    assert got == answer(skill.get_task_status(got["job_id"]))


def test_a_single_task_is_looked_up_too(skill: ParallelSkill) -> None:
    task_id = jobs.add_numbers.apply_async((20,), {"b": 2}).id
    got = wait_until(
        lambda: (found := answer(skill.get_task_status(task_id)))["summary"]["completed"] and found
    )
    assert (got["results"][0]["result"], got["job_id"]) == (22, task_id)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ("[1, 2", "not JSON"),
        ("one, two", "not JSON"),
        ("[1, NaN]", "not JSON"),
        ("[12e45678]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": 1}', "must be a JSON list, not an object"),
        ('"a"', "must be a JSON list, not a text"),
        ("[]", "empty"),
        (["a"], "must be JSON text"),
    ],
)
def test_items_that_are_no_list_are_an_error_in_the_answer(
    skill: ParallelSkill, items: Any, words: str
) -> None:
    for work in (
        skill.map_reduce("add_numbers", items),
        skill.parallel_execute("add_numbers", items),
    ):
        got = answer(work)
        assert words in got["error"]
        assert (got["results"], got["job_id"], got["summary"]["total_tasks"]) == ([], None, 0)


HALF = r'"half an emoji \ud83d"'


def strictly(text: str) -> dict[str, Any]:
    """Read out of bytes, as a program that knows no NaN."""
    read = json.loads(text.encode(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return dict(read)


def test_half_characters_and_what_is_no_number_are_answered(skill: ParallelSkill) -> None:
    half = json.loads(HALF)
    (said,) = strictly(asyncio.run(skill.map_reduce("Say again", f"[{HALF}]")))["results"]
    assert said["result"] == {"said": half, "mean": None}
    for work in (
        skill.map_reduce("Complain", f"[{HALF}]"),
        skill.parallel_execute("All", json.dumps([f"Complain: {HALF}"])),
    ):
        (failed,) = strictly(asyncio.run(work))["results"]
        assert failed["error"].startswith("ValueError: ")
        assert r"\ud83d" in failed["error"]
    for work in (
        skill.get_task_status(half),
        skill.map_reduce(f"Bake {half}", "[1]"),
        skill.parallel_execute(half, f"[{HALF}]"),
    ):
        assert strictly(asyncio.run(work))["error"]


def test_what_no_skill_does_is_an_error_that_lists_the_skills(skill: ParallelSkill) -> None:
    for work in (
        skill.map_reduce("Bake a cake", '["a"]'),
        skill.parallel_execute("Party", '["Bake a cake", "Play a song"]'),
    ):
        got = answer(work)
        assert "add_numbers" in got["error"]
        assert "summarize" in got["error"]
        assert got["job_id"] is None


def test_wrong_arguments_are_an_error_in_the_answer(skill: ParallelSkill) -> None:
    assert (
        "priority"
        in answer(skill.map_reduce("add_numbers", "[1]", priority="urgent"))["error"].lower()
    )
    assert (
        "wait_timeout" in answer(skill.map_reduce("add_numbers", "[1]", wait_timeout=-1))["error"]
    )
    assert "task_description" in answer(skill.map_reduce("", "[1]"))["error"]
    assert "nobody" in answer(skill.get_task_status("nobody"))["error"]


def test_no_node_online_until_the_wait_ends_is_an_error_and_the_work_waits(
    idle: ParallelSkill,
) -> None:
    for work in (
        idle.map_reduce("add_numbers", "[1, 2]", wait_timeout=0.5),
        idle.parallel_execute("Audit", '["Scan /src"]', wait_timeout=0.5),
    ):
        got = answer(work)
        assert "No node was online" in got["error"]
        assert got["summary"]["pending"] == got["summary"]["total_tasks"] > 0
        assert answer(idle.get_task_status(got["job_id"]))["summary"] == got["summary"]


def test_a_broker_that_is_away_is_an_error_in_the_answer() -> None:
    app = hive.install(
        Celery("absent"), Settings.load(redis_host="127.0.0.1", redis_port=free_port())
    )
    skill = ParallelSkill(MessageBroker(app))
    works = (
        skill.map_reduce("add_numbers", "[1]"),
        skill.parallel_execute("Audit", '["Scan /src"]'),
        skill.get_task_status("x"),
    )
    for work in works:
        assert "does not answer" in answer(work)["error"]
