"""A chord ends, with one run of its callback, wherever the process that ran its last member is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.harness import BrokerServer, WorkerProcess, wait_until

APP = '''
import os, signal
from functools import cached_property
from celery import Celery, chord
import hive
from hive.broker.backend import Backend

def die(point):
    """Kill this process, once for each file that asks for it."""
    try:
        os.unlink(os.path.join(os.environ["KILL_AT"], point))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

class KillingBackend(Backend):
    def _killing(self, script, before=None, after=None):
        def run(**arguments):
            before and die(before)
            reply = script(**arguments)
            after and die(after)
            return reply
        return run

    @cached_property
    def _chord_claim_extend_script(self):
        return self._killing(super()._chord_claim_extend_script, before="claimed", after="extended")

    @cached_property
    def _chord_cleanup_script(self):
        return self._killing(super()._chord_cleanup_script, before="published")

app = Celery("chords", backend=f"chord_app:KillingBackend+redis://127.0.0.1:{os.environ['REDIS_PORT']}/0")
app = hive.install(app)

@app.task
def member(x):
    return x

@app.task
def total(xs):
    with open(os.environ["CALLBACKS"], "a") as log:
        log.write("x")
    return sum(xs)
'''

CALL = """
import sys
from chord_app import chord, member, total
print(chord(member.s(x) for x in range(20))(total.s()).get(timeout=60))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, broker_server: BrokerServer) -> Iterator[WorkerProcess]:
    directory = tmp_path_factory.mktemp("chords")
    (directory / "chord_app.py").write_text(APP)
    (directory / "kill_at").mkdir()
    env = {**broker_server.environment, "KILL_AT": str(directory / "kill_at"), "CALLBACKS": str(directory / "callbacks")}
    with broker_server.client() as client:
        client.flushall()
    started = WorkerProcess.celery(directory, "chords", app="chord_app", env=env, options=("--without-gossip", "--without-mingle"))
    started.env = env  # type: ignore[attr-defined]
    wait_until(lambda: "ready." in started.output(), what="the worker is ready")
    yield started
    started.kill()


@pytest.mark.parametrize("point", ["claimed", "extended", "published"])
def test_a_chord_ends_when_its_last_member_is_killed(worker: WorkerProcess, point: str) -> None:
    directory = worker.log.parent
    callbacks = directory / "callbacks"
    callbacks.write_text("")
    (directory / "kill_at" / point).touch()
    env = {**worker.env, "PYTHONPATH": os.pathsep.join([str(directory), *sys.path])}  # type: ignore[attr-defined]
    caller = WorkerProcess(directory / f"{point}.log", sys.executable, "-c", CALL, env=env, cwd=directory)
    try:
        assert caller.process.wait(40) == 0, caller.output() + worker.output()[-3000:]
    finally:
        caller.kill()
    assert "190" in caller.output()
    assert not (directory / "kill_at" / point).exists(), "the kill happened"
    assert callbacks.read_text() == "x"
