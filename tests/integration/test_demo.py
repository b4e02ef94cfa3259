"""`hive demo` from its first line to its last, and stopped in the middle: nothing of it is left
either way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.harness import wait_until
from tests.integration.cluster import REPOSITORY


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    """The demo as a process of its own; its state is made below `directory`."""
    with (directory / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "hive", "demo", *options],
            stdout=subprocess.PIPE if options else said,
            stderr=said,
            text=True,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "TMPDIR": str(directory),
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONUNBUFFERED": "1",
            },
            cwd=directory,
            start_new_session=True,
        )


def left_behind(directory: Path) -> list[object]:
    """Processes of a demo's hive below this directory, and its state."""
    found: list[object] = [path for path in directory.iterdir() if path.name != "said"]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HIVE_LOCAL_STATE", "").startswith(str(directory)):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_story(tmp_path: Path) -> None:
    demo = start(tmp_path, "--json")
    out, _ = demo.communicate(timeout=280)
    said = (tmp_path / "said").read_text()
    assert demo.returncode == 0, said
    account = json.loads(out)
    assert account["documents_summarized"] == account["documents"] >= 20
    assert account["files"] > 100
    assert account["findings"] > 0
    assert (account["lost"], account["failures"]) == (0, [])
    assert account["killed"]
    assert account["run_again"] > 0
    assert account["documents_one_node"] > 1.5 * account["documents_all_nodes"]
    last = said.strip().splitlines()[-1]
    assert last.startswith(
        f"documents {account['documents']} of {account['documents']}, findings "
        f"{account['findings']}, lost 0, "
    )
    assert "attempt 2, ok" in said
    assert "after a delay of 0.3 s" in said
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("the hive starts", signal.SIGINT),
        ("all 5 spores are online", signal.SIGTERM),
        ("1. ", signal.SIGINT),
    ],
)
def test_it_is_stopped_at_any_moment(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    demo = start(tmp_path)
    said = tmp_path / "said"
    wait_until(lambda: moment in said.read_text(), 60, moment)
    demo.send_signal(number)
    assert demo.wait(30) == 130
    assert "Traceback" not in said.read_text()
    assert left_behind(tmp_path) == []
