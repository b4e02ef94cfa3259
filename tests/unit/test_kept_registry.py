"""`hive.testing.kept_registry`: what a test registers goes with it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from celery import Celery, shared_task

import hive
from hive.skills import registered
from hive.testing import kept_registry


@pytest.fixture
def app() -> Celery:
    app = Celery("kept", set_as_current=False)
    app.finalize()
    return app


def test_skills_and_tasks_that_were_made_inside_are_forgotten(app: Celery) -> None:
    skills, tasks = registered(), set(app.tasks)
    with (  # noqa: PT012 - what is raised is raised by the block
        pytest.raises(ValueError, match="the body's own"),
        kept_registry(),
    ):

        @hive.skill("Only here", name="only_here")
        def only_here() -> None: ...

        @shared_task(name="kept.shared")
        def shared() -> None: ...

        @app.task(name="kept.own")
        def own() -> None: ...

        unused = Celery("unused", set_as_current=False)
        assert "kept.shared" in unused.tasks
        assert "only_here" in registered()
        assert {"kept.shared", "kept.own"} < set(app.tasks)
        raise ValueError("the body's own")
    assert registered() == skills
    assert set(app.tasks) == tasks
    for other in (unused, Celery("later", set_as_current=False)):
        assert not {name for name in other.tasks if "kept" in name or "only_here" in name}


def test_a_skill_that_was_replaced_is_back() -> None:
    with kept_registry():

        @hive.skill("The first", name="replaced")
        def first() -> None: ...

        with kept_registry():

            @hive.skill("The second", name="replaced")
            def second() -> None: ...

            assert registered()["replaced"].description == "The second"
        assert registered()["replaced"].description == "The first"


def test_what_an_import_registers_stays(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept_module.py").write_text(
        "import hive\nfrom celery import shared_task\n"
        "@hive.skill('Imported')\ndef kept_skill(): ...\n"
        "@shared_task\ndef kept_task(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with kept_registry():  # of this test
        with kept_registry():
            importlib.import_module("kept_module")
        assert "kept_skill" in registered()
        later = Celery("later", set_as_current=False)
        for finalized in (app, later):
            assert {"kept_module.kept_skill", "kept_module.kept_task"} < set(finalized.tasks)
