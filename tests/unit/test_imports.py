"""What importing Hive costs: no library before something needs it."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hive

REPOSITORY = Path(__file__).parents[2]
LIBRARIES = {"celery", "kombu", "redis", "pydantic", "pydantic_settings", "structlog", "click"}

LIST = "; import json, sys; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    """The packages that a program of its own has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", code + LIST],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("hive", set()),
        ("hive.errors", set()),
        ("hive.logs", set()),
        ("hive.skills", set()),
        ("hive.settings", {"pydantic", "pydantic_settings"}),
        ("hive.cli", {"click"}),
    ],
)
def test_a_module_on_the_ground_floor_imports_no_library_that_it_does_not_need(
    module: str, needs: set[str]
) -> None:
    assert loaded_by(f"import {module}") & LIBRARIES == needs


def test_what_a_worker_logs_with_is_there_before_it_forks() -> None:
    assert "structlog" in loaded_by("import hive.celery")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_help_of_hive_imports_click_and_nothing_of_a_command(arguments: list[str]) -> None:
    loaded = loaded_by(f"from hive.cli.main import execute; execute({arguments})")
    assert loaded & LIBRARIES == {"click"}


def test_a_log_line_brings_the_library_that_writes_it() -> None:
    code = "from hive.logs import get_logger; log = get_logger('x'); "
    assert "structlog" not in loaded_by(code + "log")
    assert "structlog" in loaded_by(code + "log.debug('event')")


def test_every_public_name_is_there_and_is_no_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(hive.__path__)}
    assert not modules & set(hive.__all__)
    assert set(hive.__all__) <= set(dir(hive))
    for name in hive.__all__:
        assert getattr(hive, name).__class__.__name__ != "module", name


def test_public_functions_stay_what_they_are_when_rooms_of_like_names_are_imported() -> None:
    code = (
        "import hive.jobs.mapping, hive.jobs.answer.job, hive.skills, hive; "
        "from hive import job, map, skill; "
        "assert hive.map is map is hive.jobs.mapping.map; "
        "assert hive.job is job is hive.jobs.answer.job.job; "
        "assert hive.skill is skill is hive.skills.skill"
    )
    loaded_by(code)


@pytest.mark.parametrize("name", ["errors", "logs", "settings", "skills", "celery", "tasks"])
def test_importing_hive_is_enough_to_name_its_documented_modules(name: str) -> None:
    loaded_by(f"import hive; assert hive.{name}.__name__ == 'hive.{name}'")


def test_a_name_that_hive_does_not_have_is_an_attribute_error() -> None:
    assert not hasattr(hive, "nothing")
    assert not hasattr(hive.celery, "nothing")
