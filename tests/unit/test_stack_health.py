"""When a stack's containers serve, and when one has failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hive.stack.containers import Container, check_same_directory, counted
from hive.stack.errors import StackError
from hive.stack.health import SETTLED_AFTER, UNHEALTHY_FOR, Watch

SPORE = Container(
    id="1",
    name="hive-spore-1",
    stack="hive",
    service="spore",
    number=1,
    image="venom-hive:1",
    state="running",
    health="healthy",
    exit_code=0,
    restarts=0,
    started_at="2026-01-01T00:00:00Z",
    ports=(),
    directory="/s/hive",
    grace=20,
)


def test_one_serves_when_its_check_says_so() -> None:
    watch = Watch(["spore"])
    starting = replace(SPORE, health="starting")
    assert watch.late([starting], 0) == [starting]
    assert watch.late([SPORE], 1) == []
    assert watch.failed([starting, SPORE], 1) == []


def test_one_without_a_check_serves_when_it_has_run_for_a_while() -> None:
    watch = Watch(["spore"])
    one = replace(SPORE, health=None)
    assert watch.late([one], 10) == [one]
    assert watch.late([one], 10 + SETTLED_AFTER) == []
    again = replace(one, started_at="2026-01-01T00:00:09Z")
    assert watch.late([again], 20) == [again]


@pytest.mark.parametrize(
    "failed",
    [
        replace(SPORE, state="exited", exit_code=1),
        replace(SPORE, state="dead"),
    ],
)
def test_one_that_ended_has_failed(failed: Container) -> None:
    assert Watch(["spore"]).failed([SPORE, failed], 0) == [failed]


def test_one_has_failed_when_its_check_has_found_it_unhealthy_for_a_while() -> None:
    watch = Watch(["spore"])
    ill = replace(SPORE, health="unhealthy")
    assert watch.failed([ill], 10) == []
    assert watch.late([ill], 10) == [ill]
    assert watch.failed([SPORE], 20) == []
    assert watch.failed([ill], 30) == []
    assert watch.failed([ill], 30 + UNHEALTHY_FOR) == [ill]


def test_one_that_ends_again_and_again_has_failed() -> None:
    watch = Watch(["spore"])
    before = replace(SPORE, restarts=7)
    assert watch.failed([before], 0) == []
    assert watch.failed([replace(before, restarts=8)], 0) == []
    assert watch.failed([replace(before, restarts=9)], 0) != []


def test_one_that_has_done_what_it_was_for_is_neither_late_nor_failed() -> None:
    watch = Watch(["migrate"])
    done = replace(SPORE, service="migrate", state="exited", health=None)
    assert watch.late([done], 0) == watch.failed([done], 0) == []


def test_a_service_without_containers_is_missing() -> None:
    watch = Watch(["spore", "nexus"])
    other = replace(SPORE, service="other")
    assert watch.of_interest([SPORE, other]) == [SPORE]
    assert watch.missing([SPORE]) == ["nexus"]


def test_containers_are_counted_by_service() -> None:
    assert counted([SPORE, replace(SPORE, service="redis"), SPORE]) == "redis 1, spore 2"
    assert counted([]) == ""


def test_a_project_of_another_directory_is_not_taken_over() -> None:
    check_same_directory([SPORE], Path("/s/hive"))
    with pytest.raises(StackError, match="was started from /s/hive, and is not the stack of /t"):
        check_same_directory([SPORE], Path("/t/hive"))
