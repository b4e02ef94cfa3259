"""Of what a pool process died, in words; and whether the kernel ended it for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from billiard.exceptions import WorkerLostError

from hive.spore.machine.deaths import Deaths
from tests.unit.test_limits import V1_DOCKER, V1_PATHS, V2, tree

KILLED = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.")
V2_FILE = "/sys/fs/cgroup/memory.events"
V1_FILE = "/sys/fs/cgroup/memory/memory.oom_control"


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "file", "text"),
    [
        (V2, "0::/\n", V2_FILE, "low 0\nhigh 0\nmax 7\noom 2\noom_kill {}\n"),
        (V1_DOCKER, V1_PATHS, V1_FILE, "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
        ("", "", "/proc/vmstat", "nr_free_pages 5\noom_kill {}\n"),
    ],
    ids=["v2", "v1", "a machine without control groups"],
)
def test_the_kernel_says_whether_a_killed_process_took_too_much_memory(
    tmp_path: Path, mountinfo: str, cgroup: str, file: str, text: str
) -> None:
    deaths = Deaths(tree(tmp_path, mountinfo, cgroup, {file: text.format(4)}))
    assert deaths.reason(KILLED) == "its process died of SIGKILL"
    (tmp_path / file.lstrip("/")).write_text(text.format(5))
    assert deaths.reason(KILLED) == "its process died of SIGKILL: out of memory, as the kernel says"
    assert deaths.reason(KILLED) == "its process died of SIGKILL"


def test_a_kernel_that_does_not_tell_is_not_spoken_for(tmp_path: Path) -> None:
    assert Deaths(tmp_path).reason(KILLED) == "its process died of SIGKILL"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerLostError("signal 11 (SIGSEGV) Job: 1."), "its process died of SIGSEGV"),
        (WorkerLostError("signal 63 Job: 1."), "its process died of signal 63"),
        (WorkerLostError("exitcode 3 Job: 1."), "its process ended with exit code 3"),
        (WorkerLostError("gone"), "its process died"),
        (SystemExit(4), "its process ended with exit code 4"),
        (SystemExit("no"), "its process died"),
    ],
    ids=repr,
)
def test_a_death_is_told_by_its_signal_or_code(
    tmp_path: Path, error: BaseException, reason: str
) -> None:
    assert Deaths(tmp_path).reason(error) == reason
