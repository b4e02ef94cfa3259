"""The supervisor of a spore, as a real process over a real child; a small program plays the worker,
for Celery is not in question here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hive.process.child import HEALTHY_AFTER, LONGEST_DELAY, Backoff, Child
from hive.process.lifeline import FD_VARIABLE, Lifeline, watch_supervisor
from hive.process.liveness import Signs
from hive.process.supervisor import Supervisor
from tests.harness import WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY, Cluster

SUPERVISOR = """
import logging, sys
from hive.process import liveness as signs
from hive.process.supervisor import Supervisor

signs.PATIENCE = 1.0

class WithCommand(Supervisor):
    def worker_command(self):
        return [sys.executable, "worker.py", *sys.argv[1:]]

logging.basicConfig(level=logging.INFO)
sys.exit(WithCommand("hive", node_name="spore-1", concurrency=2).run())
"""

# Plays `hive up`: starts the supervisor as a child.
HIVE = """
import os, sys, time
from hive.process.child import Child

child = Child([sys.executable, "supervisor.py", *sys.argv[1:]], os.environ)
while True:
    time.sleep(60)
"""

# Writes a line "started <pid>" a start, and what befalls it.
WORKER = """
import os, signal, subprocess, sys, time
from hive.process.lifeline import supervisor_fd, watch_supervisor
from hive.process.liveness import signs_fd

def say(*words):
    with open("worker.txt", "a") as file:
        print(*words, time.monotonic(), file=file)

def drain(*_):
    say("drained")
    sys.exit(0)

def go_on(*_):
    say("goes on")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

def linger(*_):
    global until
    until = time.monotonic() + 3

mode, until = sys.argv[1], float("inf")
told = {"busy": go_on, "stubborn": signal.SIG_IGN, "lingers": linger}.get(mode, drain)
signal.signal(signal.SIGTERM, told)
watch_supervisor(supervisor_fd(), lambda: os.kill(os.getpid(), signal.SIGTERM))
if mode == "parent":
    say("pool", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
say("started", os.getpid())
if mode.isdigit():
    sys.exit(int(mode))
while mode in ("signs", "lingers"):
    os.write(signs_fd(), b"w")
    time.sleep(0.1)
    if time.monotonic() > until:
        drain()
if mode == "silent":
    os.write(signs_fd(), b"w")
while True:
    time.sleep(60)
"""

PID = "tests.integration.wedge_app.pid"

WEDGED = """
import logging, sys
from hive.settings import Settings
from hive.process import liveness as signs
from hive.process.supervisor import Supervisor

signs.PATIENCE = 3.0
logging.basicConfig(level=logging.INFO)
settings = Settings.load()
app = "tests.integration.wedge_app"
sys.exit(Supervisor(app, settings, node_name="wedged@h", concurrency=1).run())
"""


class Supervised:
    """A supervisor process and the log of its workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "supervisor.py").write_text(SUPERVISOR)
        (directory / "worker.py").write_text(WORKER)
        (directory / "starter.py").write_text(HIVE)
        self.process: WorkerProcess | None = None

    def start(self, mode: str, *, program: str = "supervisor.py", **settings: str) -> WorkerProcess:
        paths = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
        command = (sys.executable, program, mode)
        self.process = WorkerProcess(
            self.log,
            *command,
            cwd=self.directory,
            env={"PYTHONPATH": paths, FD_VARIABLE: "", **settings},
        )
        return self.process

    @property
    def log(self) -> Path:
        return self.directory / "supervisor.log"

    def lines(self, word: str) -> list[list[str]]:
        log = self.directory / "worker.txt"
        return (
            [line.split() for line in log.read_text().splitlines() if line.startswith(word)]
            if log.exists()
            else []
        )

    def pids(self, word: str = "started") -> list[int]:
        return [int(line[1]) for line in self.lines(word)]

    def worker(self, number: int = 1) -> int:
        """The pid of the worker's nth start, waited for."""
        return wait_until(
            lambda: self.pids()[number - 1 : number], what=f"start {number} of the worker"
        )[0]

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
        for pid in self.pids() + self.pids("pool"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    made.end()


def test_a_killed_worker_is_started_again(supervised: Supervised) -> None:
    supervised.start("healthy")
    first = supervised.worker()
    os.kill(first, signal.SIGKILL)
    assert supervised.worker(2) != first


def test_the_pool_of_a_killed_worker_does_not_outlive_it(supervised: Supervised) -> None:
    supervised.start("parent")
    os.kill(supervised.worker(), signal.SIGKILL)
    supervised.worker(2)
    wait_until(
        lambda: gone(supervised.pids("pool")[0]), what="the first worker's pool process is gone"
    )


def test_a_worker_that_crashes_at_once_is_started_ever_more_slowly(supervised: Supervised) -> None:
    supervised.start("3")
    supervised.worker(4)
    times = [float(line[-1]) for line in supervised.lines("started")]
    assert times[3] - times[0] >= 0.125 + 0.25 + 0.5


def test_wrong_settings_are_not_tried_again(supervised: Supervised) -> None:
    process = supervised.start("2").process
    assert process.wait(60) == 2
    assert len(supervised.pids()) == 1
    assert "worker_cannot_start" in supervised.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_worker_drain(supervised: Supervised, number: signal.Signals) -> None:
    process = supervised.start("healthy").process
    worker = supervised.worker()
    process.send_signal(number)
    assert process.wait(60) == 0
    assert supervised.lines("drained")
    assert gone(worker)


def test_a_worker_that_goes_on_giving_signs_does_not_keep_its_supervisor_busy(
    supervised: Supervised,
) -> None:
    """They were not read while it drained, and woke the supervisor without end."""
    process = supervised.start("lingers").process
    supervised.worker()
    wait_until(lambda: "worker_started" in supervised.log.read_text())
    before = sum(psutil.Process(process.pid).cpu_times()[:2])
    process.send_signal(signal.SIGTERM)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    after = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(after[11]) + int(after[12])
    assert ticks / os.sysconf("SC_CLK_TCK") - before < 0.5
    assert process.wait(60) == 0
    assert supervised.lines("drained")


def test_a_second_signal_ends_a_worker_that_goes_on_draining(supervised: Supervised) -> None:
    process = supervised.start("busy").process
    worker = supervised.worker()
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "worker_draining" in supervised.log.read_text())
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert gone(worker)


def test_a_worker_that_hangs_in_its_draining_is_ended(supervised: Supervised) -> None:
    process = supervised.start("busy", HIVE_DRAIN_TIMEOUT="0.1").process
    worker = supervised.worker()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert gone(worker)


def test_a_worker_that_heeds_no_signal_is_killed(supervised: Supervised) -> None:
    process = supervised.start("stubborn").process
    worker = supervised.worker()
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "worker_draining" in supervised.log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert gone(worker)


def test_a_frozen_worker_is_killed_and_started_again(supervised: Supervised) -> None:
    supervised.start("signs", HIVE_DRAIN_TIMEOUT="0.1")
    frozen = supervised.worker()
    wait_until(lambda: "worker_started" in supervised.log.read_text())
    os.kill(frozen, signal.SIGSTOP)
    assert supervised.worker(2) != frozen
    assert gone(frozen)


def test_a_worker_that_falls_silent_is_started_again_and_others_are_not(tmp_path: Path) -> None:
    modes = ("silent", "signs", "healthy")  # the last never gives a sign
    for mode in modes:
        (tmp_path / mode).mkdir()
    silent, giving, quiet = supervised = [Supervised(tmp_path / mode) for mode in modes]
    try:
        for one, mode in zip(supervised, modes, strict=True):
            one.start(mode)
        steady = [giving.worker(), quiet.worker()]
        silent.worker(2)
        assert silent.lines("drained"), "it was told to drain first"
        assert "worker_hangs" in silent.log.read_text()
        assert [giving.pids(), quiet.pids()] == [[pid] for pid in steady]
    finally:
        for one in supervised:
            one.end()


def test_a_supervisor_that_was_frozen_with_its_worker_does_not_take_that_for_silence() -> None:
    signs = Signs()
    os.write(signs.pass_fds[0], b"w")
    assert not signs.look()
    signs._looked_at -= 3600
    assert not signs.look()
    signs.handed_over()
    signs.close()


@pytest.mark.slow
def test_a_spore_whose_event_loop_hangs_is_started_again(tmp_path: Path) -> None:
    """Its heartbeats go on, so that the cluster takes it for well; only its supervisor can know."""
    cluster = Cluster(tmp_path)
    (tmp_path / "supervisor.py").write_text(WEDGED)
    environment = {
        **cluster.server.environment,
        "PYTHONPATH": str(REPOSITORY),
        "HIVE_DRAIN_TIMEOUT": "0.1",
        FD_VARIABLE: "",
    }
    supervisor = WorkerProcess(
        tmp_path / "supervisor.log",
        sys.executable,
        str(tmp_path / "supervisor.py"),
        env=environment,
    )
    cluster.spores.append(supervisor)
    try:
        first = cluster.wait_online("wedged")["wedged@h"].facts
        assert cluster.app.send_task(PID).get(timeout=60) == first.pid
        cluster.app.control.broadcast("wedge")
        result = cluster.app.send_task(PID)
        assert result.get(timeout=90) != first.pid
        assert gone(first.pid)
        assert "worker_hangs" in supervisor.output()
    finally:
        supervisor.stop()
        cluster.close()


def test_a_stop_between_two_starts_is_heard(supervised: Supervised) -> None:
    process = supervised.start("3").process
    supervised.worker(4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_killed_supervisor_leaves_no_worker(supervised: Supervised) -> None:
    process = supervised.start("healthy")
    worker = supervised.worker()
    process.kill(signal.SIGKILL)
    wait_until(lambda: gone(worker), what="the worker is gone")
    assert supervised.lines("drained"), "the worker was told to drain"


def test_a_supervisor_ends_with_the_hive_that_started_it(supervised: Supervised) -> None:
    hive = supervised.start("healthy", program="starter.py")
    worker = supervised.worker()
    supervisor = psutil.Process(worker).ppid()
    assert supervisor != hive.pid
    os.kill(hive.pid, signal.SIGKILL)
    wait_until(lambda: gone(worker) and gone(supervisor), what="worker and supervisor are gone")
    assert supervised.lines("drained")


def test_a_signal_to_a_child_that_has_just_ended_is_no_error() -> None:
    child = Child([sys.executable, "-c", "raise SystemExit(3)"], os.environ)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.signal(signal.SIGTERM)
    child.signal_group(signal.SIGKILL)
    assert child.ended() == 3
    child.signal(signal.SIGTERM)
    assert child.ended() == 3


def test_the_end_of_a_lifeline_is_told_once() -> None:
    lifeline = Lifeline()
    told = threading.Event()
    thread = watch_supervisor(lifeline.pass_fds[0], told.set)
    assert not told.wait(0.05)
    lifeline.cut()
    thread.join(60)
    assert told.is_set()
    lifeline.handed_over()


def test_the_delay_grows_to_a_limit_and_starts_over_after_a_healthy_minute() -> None:
    backoff = Backoff()
    delays = [backoff.delay_after(1.0) for _ in range(12)]
    assert delays[0] <= 0.25
    assert all(0.125 * 2**n <= delay <= 0.25 * 2**n for n, delay in enumerate(delays[:7]))
    assert all(LONGEST_DELAY / 2 <= delay <= LONGEST_DELAY for delay in delays[7:])
    assert backoff.delay_after(HEALTHY_AFTER) <= 0.25


def test_the_worker_is_a_plain_celery_worker_of_the_application() -> None:
    command = Supervisor("shop.tasks:app", node_name="spore-1", concurrency=3).worker_command()
    assert command[1:5] == ["-m", "celery", "-A", "shop.tasks:app"]
    assert "-n spore-1@%h -c 3 -l info" in " ".join(command)
