"""The tests' own engine leaves nothing behind, however the test run ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.engine import CONTROL_GROUPS
from tests.docker.images import REPOSITORY
from tests.harness import wait_until

PATIENCE = 60
PROGRAM = """
import time
from tests.docker.engine import engine_running
with engine_running() as engine:
    engine.docker("network", "create", "made")
    print(engine.directory, engine.group, engine.process.pid, engine.first, flush=True)
    time.sleep(600)
"""


def of_this_machine() -> list[str]:
    """Its links, rules, mounts and namespaces; those of other programs may come and go."""
    tables = [["iptables-save"], ["nft", "list", "ruleset"], ["ip", "-brief", "link"]]
    found = [Path("/proc/self/mounts").read_text()]
    for command in tables:
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(done.stdout)
    lines = {line for text in found for line in text.splitlines()}
    return sorted(line for line in lines if "docker" in line.lower() or "172.1" in line)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_nothing_is_left_when_the_test_run_ends(end: signal.Signals) -> None:
    before = of_this_machine()
    run = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(run, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        directory, group, *pids = process.stdout.readline().split()
        assert of_this_machine() == before, "what it makes is nowhere to be seen"
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        process.send_signal(end)
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), PATIENCE, "all have ended"
    )
    assert of_this_machine() == before
    if end == signal.SIGINT:
        assert not Path(directory).exists()
        assert not list(CONTROL_GROUPS.glob(f"**/{group}"))
        return
    # Nobody was there any more to remove what is on the disk.
    shutil.rmtree(directory)
    for path in CONTROL_GROUPS.glob(f"**/{group}"):
        os.rmdir(path)  # noqa: PTH106 - nothing but a control group's own files is in it
