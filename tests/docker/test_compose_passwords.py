"""The passwords of the compose file: none is missing or weak, and any character may be in one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docker.project import PASSWORDS, TOOLS, Project
from tests.harness import wait_until

HOW = "'openssl rand -hex 32'"
PATIENCE = 60


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("missing", PASSWORDS)
def test_without_one_nothing_starts_and_a_sentence_says_which(
    projects: Any, tool: str, missing: str
) -> None:
    project = projects(tool)
    del project.passwords[missing]
    project.write_env()
    done = project.compose("up", "--detach", check=False)
    assert done.returncode != 0
    assert missing in done.stderr
    assert HOW in done.stderr
    assert project.containers(stopped=True) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_with_a_weak_one_nothing_starts_and_a_sentence_says_which(projects: Any, tool: str) -> None:
    weak = "HIVE_FLOWER_PASSWORD"
    project = projects(tool)
    project.passwords[weak] = "x" * 31
    project.write_env()
    done = project.compose("up", "--detach", check=False)
    assert done.returncode != 0
    wait_until(lambda: project.logs("redis"), PATIENCE, "it says why")
    said = f"{weak} has 31 characters and needs at least 32: put one into .env that {HOW} makes."
    assert set(project.logs("redis").splitlines()) == {said}
    never_ran = [project.engine.inspect(one)[0] for one in others(project)]
    assert {known["State"]["Status"] for known in never_ran} <= {"created"}


def others(project: Project) -> set[str]:
    """All containers but the broker's."""
    every = project.containers(stopped=True)
    return set(every) - set(project.containers("redis", stopped=True))


ODD = """$HOME it's "x" #no \\n %s @host:1/0 $$ ü"""


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("where", [".env", "the shell"])
def test_any_character_may_be_in_one(projects: Any, tool: str, where: str) -> None:
    """Also in what the client's addresses, the server's users and a command line would make of
    them.
    """
    passwords = {name: f"{ODD} {name}" for name in PASSWORDS}
    project = projects(tool, passwords=passwords if where == ".env" else {})
    given = {} if where == ".env" else passwords
    project.compose("up", "--detach", "redis", "nexus", env=given)
    assert project.account()["alarm"] is None
    hive, admin = (passwords[name] for name in ("REDIS_PASSWORD", "REDIS_ADMIN_PASSWORD"))
    assert project.redis("ping", user="hive", password=hive) == "PONG"
    assert project.redis("ping", user="admin", password=admin) == "PONG"
    assert "WRONGPASS" in project.redis("ping", user="hive", password=admin)
