"""The passwords of the compose file: none is missing or weak, and any character may be in one."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.docker.engine import Engine
from tests.docker.project import PASSWORDS, Project

TOOLS = ("1", "2")
ODD = "$HOME ${A:-b} it's \"x\" #no \\n %s @host:1/0 $$ é"


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
    assert "make one with 'openssl rand -hex 32' and put it into .env" in done.stderr
    assert project.containers(stopped=True) == []
