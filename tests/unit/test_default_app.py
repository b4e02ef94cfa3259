"""Whose application a program means that names none: Hive's ready one, made when it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]

AROUND = """
import json, sys
told = []
def made():
    return "app" in vars(sys.modules.get("hive.celery", sys))
{}
print(json.dumps(told))
"""


def run_python(code: str, *, fails: bool = False, **environment: str) -> Any:
    """What a program of its own has appended to `told`; its stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", AROUND.format(code)],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else json.loads(done.stdout.splitlines()[-1])


ORDERS = ["import hive, celery._state", "import celery._state, hive", "import celery.app, hive"]


@pytest.mark.parametrize("imports", ORDERS)
def test_the_ready_application_is_the_default_and_not_made_before_it_is_used(imports: str) -> None:
    code = f"""
{imports}
from celery import current_app, shared_task
from celery.app import default_app
@shared_task(name="mine.add")
def add(x, y): return x + y
told.append(made())
told.append([current_app.main, default_app.main, add.app is hive.app, made()])
told.append(add.delay.__self__.app.conf.task_default_queue)
told.append(default_app._get_current_object() is hive.app)
"""
    assert run_python(code) == [
        False,
        ["hive", "hive", True, True],
        "venom:tasks:background",
        True,
    ]


@pytest.mark.parametrize("imports", ORDERS)
def test_an_application_that_is_installed_is_the_default_also_when_the_ready_one_is_made_later(
    imports: str,
) -> None:
    code = f"""
{imports}
import threading
from celery import Celery, current_app
mine = hive.install(Celery("mine", set_as_current=False))
told.append([current_app.main, made()])
told.append(hive.app.main)
thread = threading.Thread(target=lambda: told.append(current_app.main))
thread.start(); thread.join()
"""
    assert run_python(code) == [["mine", False], "hive", "mine"]


def test_a_default_that_the_program_chose_before_it_imports_hive_stays() -> None:
    code = """
from celery import Celery
mine = Celery("mine")
mine.set_default()
import hive
from celery.app import default_app
told.append([default_app.main, hive.app.main, default_app.main])
"""
    assert run_python(code) == [["mine", "hive", "mine"]]


def test_the_application_that_celery_makes_for_lack_of_one_gives_way() -> None:
    code = """
from celery import current_app
told.append(current_app.main)
import hive
told.append(current_app.main)
"""
    assert run_python(code) == ["default", "hive"]


def test_twenty_threads_that_use_it_at_once_make_one() -> None:
    code = """
import hive, threading
from celery import current_app
barrier = threading.Barrier(20)
apps = []
def use(number):
    barrier.wait()
    apps.append(hive.app if number % 2 else current_app.tasks.get("celery.map").app)
threads = [threading.Thread(target=use, args=(number,)) for number in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
told += [len(apps), len({id(app) for app in apps})]
"""
    assert run_python(code) == [20, 1]


@pytest.mark.parametrize("imports", ["import hive", "import hive, celery.app"])
def test_a_child_of_a_fork_makes_its_own(imports: str) -> None:
    code = f"""
{imports}
import os
child = os.fork()
if not child:
    from celery import current_app
    os._exit(0 if not made() and current_app.main == "hive" and made() else 1)
told.append(os.waitpid(child, 0)[1])
told.append(made())
"""
    assert run_python(code) == [0, False]


def test_a_child_of_a_fork_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    code = """
import hive.celery, os, threading
held, done = threading.Event(), threading.Event()
def hold():
    with hive.celery._making:
        held.set()
        done.wait(30)
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    os._exit(0 if hive.app.main == "hive" else 1)
told.append(os.waitpid(child, 0)[1])
done.set()
thread.join()
"""
    assert run_python(code) == [0]


def test_celerys_own_state_is_loaded_as_ever() -> None:
    code = """
import hive, importlib.util
before = list(sys.meta_path)
importlib.util.find_spec("celery._state")  # only looks
import celery._state as state
told.append(type(state.__loader__).__module__ == type(json.__loader__).__module__)
told.append(state.__spec__.loader is state.__loader__)
told.append([type(finder).__name__ for finder in before if finder not in sys.meta_path])
"""
    assert run_python(code) == [True, True, ["_Watch"]]


@pytest.mark.parametrize("name", ["hive", "hive:app", "hive.celery", "hive.celery:app"])
def test_celery_finds_it_by_name(name: str) -> None:
    code = f"""
from celery.app.utils import find_app
found = find_app({name!r})
import hive
told.append([found.main, found is hive.app])
"""
    assert run_python(code) == [["hive", True]]


def test_a_hive_that_is_disabled_gives_a_plain_celery() -> None:
    code = """
import hive
from celery import current_app
told += [current_app.main, current_app.conf.broker_url, current_app.conf.broker_transport]
told.append(hasattr(hive.app, "hive"))
"""
    assert run_python(code, ENABLE_HIVE="false", REDIS_PORT="7777") == [
        "hive",
        "redis://localhost:7777/0",
        None,
        False,
    ]


@pytest.mark.parametrize("use", ["hive.app", "hive.tasks.web.summarize.delay('a')"])
def test_a_wrong_setting_is_told_at_the_first_use_and_at_each(use: str) -> None:
    code = f"""
import hive
import hive.tasks.web
try:
    {use}
except hive.errors.SettingsError:
    {use}
"""
    said = run_python(code, fails=True, REDIS_PORT="abc")
    assert "REDIS_PORT cannot be 'abc'" in said.splitlines()[-1]
