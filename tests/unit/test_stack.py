"""What a stack makes of an engine's answers, which a program gives that stands for `docker`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hive.stack.stack import Stack

# Compose takes longer than a spore may take to become healthy: one that is to go still works.
DOCKER = """\
#!/bin/sh
case "$1 $2" in
    "ps --all") echo one ;;
    "inspect --type") cat "$0.inspect" ;;
    "compose --project-name") /bin/sleep 0.5 ;;
    "logs --tail")
        echo "2026-11-28T07:00:00.000000001Z first"
        echo "2026-11-28T07:00:00.000000003Z third"
        echo "2026-11-28T07:00:00.000000002Z second" >&2 ;;
esac
"""


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    """One with a spore that runs."""
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    labels = {
        "com.docker.compose.project": "web",
        "com.docker.compose.service": "spore",
        "com.docker.compose.project.working_dir": str(tmp_path / "web"),
    }
    told = {
        "Id": "one",
        "Name": "/web_spore_1",
        "Config": {"Labels": labels},
        "State": {"Status": "running", "Health": {"Status": "healthy"}},
    }
    (tmp_path / "docker.inspect").write_text(json.dumps([told]))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "docker-compose.yml").write_text("services: {spore: {image: a}}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return Stack(tmp_path, "web")


def test_a_spore_that_is_too_many_has_the_time_that_it_was_given(stack: Stack) -> None:
    assert [one.service for one in stack.scale("spore", 1, timeout=0.1)] == ["spore"]


def test_lines_of_both_outputs_are_in_the_order_of_their_times(stack: Stack) -> None:
    assert stack.logs("spore") == "first\nsecond\nthird\n"
