"""Commands that only look at the broker: they need no application, and import no Celery."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness import BrokerServer, free_port

REPOSITORY = Path(__file__).parents[2]
LOOKING = ("status", "status --json", "node list --json", "queue stats --json", "account --json")

RUN = """
import json, sys
from hive.cli.main import execute
code = execute(sys.argv[1:])
packages = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([code, sorted(packages & {"celery", "kombu", "rich"})]))
"""


def look(command: str, environment: Mapping[str, str]) -> tuple[int, list[str], str, str]:
    """Exit code of a command, the libraries that it imported, its stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command.split()],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *said, told = done.stdout.splitlines()
    code, imported = json.loads(told)
    return code, imported, "\n".join(said), done.stderr


@pytest.mark.parametrize("command", LOOKING)
def test_a_command_that_only_looks_imports_no_celery_and_no_kombu(
    broker: BrokerServer, command: str
) -> None:
    code, imported, said, _ = look(command, broker.environment)
    assert code == 0
    assert imported == ([] if "--json" in command else ["rich"])
    assert said


def test_it_asks_the_broker_that_celerys_own_variable_names(broker: BrokerServer) -> None:
    elsewhere = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(free_port())}
    assert look("status", elsewhere)[0] == 3
    assert look("status", {**elsewhere, "CELERY_BROKER_URL": broker.url})[0] == 0
    code, _, _, said = look("status", {**elsewhere, "CELERY_BROKER_URL": "amqp://elsewhere//"})
    assert code == 2
    assert said == (
        "hive: The application's broker_url is a amqp:// address; "
        "Hive needs redis://host:port/db.\n"
    )


@pytest.mark.parametrize("command", LOOKING)
def test_a_hive_that_is_disabled_is_said(broker: BrokerServer, command: str) -> None:
    code, imported, said, complaint = look(command, {**broker.environment, "ENABLE_HIVE": "false"})
    why = (
        "Hive is not installed in the application 'hive'; call hive.install(app) first "
        "(ENABLE_HIVE=false installs nothing)."
    )
    assert (code, imported, complaint) == (1, [], f"hive: {why}\n")
    if "--json" in command:
        assert json.loads(said) == {"error": why}
    else:
        assert said == ""


def test_a_command_finds_the_hive_that_runs_in_its_directory(
    broker: BrokerServer, tmp_path: Path
) -> None:
    variables = "".join(f"{name}={value}\n" for name, value in broker.environment.items())
    (tmp_path / ".hive").mkdir()
    (tmp_path / ".hive" / "hive.env").write_text(variables)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hive", *arguments],
            env={"PYTHONPATH": str(REPOSITORY), "PATH": "", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    found = run("status", "--json")
    assert (found.returncode, json.loads(found.stdout)["total_nodes"]) == (0, 0)
    assert found.stderr == "using .hive/hive.env (set HIVE_ENV_FILE to choose another hive)\n"
    assert run("skills", "--help").stderr == ""
    elsewhere = run("status", REDIS_HOST="127.0.0.1", REDIS_PORT=str(free_port()))
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (3, 1)
    assert run("no-such-command").stderr.count("using") == 0
