"""Each test file has the tasks and applications that it makes or imports, and no others
(tests/registry.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.registry import ROOT, imported_by

FILES = {
    "test_a.py": """
from celery import Celery, shared_task
import hive
from hive.skills import registered

@shared_task
def of_a(): ...

@hive.skill("Of a file")
def skill_of_a(): ...

def test_its_own_are_there():
    assert "skill_of_a" in registered()
    assert {"test_a.of_a", "test_a.skill_of_a"} < set(Celery("a").tasks)

def test_an_application_of_its_own_is_left():
    global left
    left = Celery("left")
    left.set_default()
""",
    "test_b.py": """
from celery import Celery, _state, shared_task
from hive.skills import registered

def test_those_of_others_are_not():
    assert "skill_of_a" not in registered()
    assert not {name for name in Celery("b").tasks if "of_a" in name}
    assert "left" not in {app.main for app in _state._get_active_apps()}
    assert getattr(_state.default_app, "main", None) != "left"

def test_one_test_makes_one():
    @shared_task(name="passing")
    def passing(): ...
    assert "passing" in Celery("b").tasks

def test_another_does_not_have_it():
    assert "passing" not in Celery("b").tasks
""",
    "test_c.py": """
import sys
from celery import Celery

app = Celery("c")

def test_who_takes_one_of_another_file_is_told():
    app.task(name="taken", shared=False)(sys.modules["test_a"].test_its_own_are_there)
    assert "taken" in app.tasks
""",
}


def test_a_file_has_its_own_tasks_and_applications_and_is_told_of_others(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.registry", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "6 passed, 1 error" in said.stdout, said.stdout
    assert "ERROR test_c.py::test_who_takes_one" in said.stdout
    assert "tasks of another file" in said.stdout
    assert "taken in <Celery c" in said.stdout


def test_what_a_file_imports_is_followed_to_its_end() -> None:
    found = imported_by(ROOT / "tests" / "integration" / "test_map.py")
    assert {"tests.integration.map_skills", "tests.integration.cluster", "tests.harness"} <= found
    assert "tests.integration.jobs" not in found
