"""What a process leaves of how it stands, and what is read of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hive.process import vitals as module
from hive.process.vitals import LENGTH, TURN_WITHIN, State, VitalsFile, read


def one(home: Path) -> tuple[State, bool, bool]:
    [vitals] = read(home)
    return vitals.state, vitals.healthy, vitals.ready


@pytest.mark.parametrize(
    ("state", "healthy", "ready"),
    [
        ("starting", True, False),
        ("working", True, True),
        ("waiting", True, True),
        ("draining", True, False),
        ("stopping", True, False),
        ("restarting", False, False),
        ("hanging", False, False),
    ],
)
def test_what_was_written_is_read(
    tmp_path: Path, state: State, *, healthy: bool, ready: bool
) -> None:
    file = VitalsFile(tmp_path, "spore", "s@h")
    file.write("working")
    file.write(state, "a reason")
    assert one(tmp_path) == (state, healthy, ready)
    [vitals] = read(tmp_path)
    assert (vitals.name, vitals.node, vitals.pid) == ("s", "s@h", os.getpid())
    assert vitals.sentence.startswith("spore s@h ")
    assert vitals.sentence.endswith(" (a reason).")
    file.close()
    assert read(tmp_path) == []


def test_a_loop_that_does_not_turn_is_told(tmp_path: Path) -> None:
    then = time.monotonic() - TURN_WITHIN - 3
    file = VitalsFile(tmp_path, "nexus", "nexus", clock=lambda: then)
    file.write("working")
    assert one(tmp_path) == ("working", False, False)
    assert "has not turned its loop for 18 s" in read(tmp_path)[0].sentence
    file.close()


def test_a_killed_process_has_ended_whoever_has_its_number_now(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; "
        "from hive.process.vitals import VitalsFile; "
        "VitalsFile(Path(sys.argv[1]), 'spore', 's').write('working'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert one(tmp_path) == ("ended", False, False)
    again = VitalsFile(tmp_path, "spore", "s")
    again.write("starting")
    assert one(tmp_path) == ("starting", True, False)
    again.close()


def test_a_second_process_of_the_name_leaves_the_first_ones_vitals_alone(tmp_path: Path) -> None:
    first = VitalsFile(tmp_path, "spore", "s")
    first.write("working")
    second = VitalsFile(tmp_path, "spore", "s")
    second.write("starting")
    second.close()
    assert one(tmp_path) == ("working", True, True)
    first.close()


def test_those_of_other_containers_are_not_read_and_swept_once_they_are_gone(
    tmp_path: Path,
) -> None:
    file = VitalsFile(tmp_path, "spore", "here")
    file.write("working")
    other = tmp_path / "vitals" / "there@c1.spore.json"
    text = (tmp_path / "vitals").glob("here@*.json").__next__().read_text()
    told = json.loads(text) | {"node": "there@c1", "space": "pid:[1]"}
    other.write_text(json.dumps(told).ljust(LENGTH))
    assert [vitals.name for vitals in read(tmp_path)] == ["here"]
    VitalsFile(tmp_path, "nexus", "nexus").close()
    assert not other.exists()
    file.close()


def test_a_container_is_well_that_got_the_number_of_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MACHINES_OWN", "")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="c1"))
    file = VitalsFile(tmp_path, "spore", "s")
    file.write("working")
    left = tmp_path / "vitals" / "s@c1.spore.json"
    text = left.read_text()
    file.close()
    left.write_text(text)
    assert one(tmp_path) == ("ended", False, False)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="c2"))
    file = VitalsFile(tmp_path, "spore", "s")
    file.write("working")
    assert one(tmp_path) == ("working", True, True)
    assert not left.exists()
    file.close()


def test_what_a_spore_left_before_the_machine_started_anew_is_swept(tmp_path: Path) -> None:
    later = time.monotonic() + 1000
    left = VitalsFile(tmp_path, "spore", "renamed", clock=lambda: later)
    left.write("working")
    text = next((tmp_path / "vitals").iterdir()).read_text()
    left.close()
    (tmp_path / "vitals" / "renamed@h.spore.json").write_text(text)
    assert one(tmp_path) == ("ended", False, False)
    VitalsFile(tmp_path, "nexus", "nexus").close()
    assert read(tmp_path) == []


def test_a_reason_of_any_length_and_of_any_letters_fits(tmp_path: Path) -> None:
    file = VitalsFile(tmp_path, "spore", "s")
    file.write("restarting", "€" * 5000)
    [vitals] = read(tmp_path)
    assert vitals.detail
    file.write("working")
    assert one(tmp_path) == ("working", True, True)
    assert next((tmp_path / "vitals").iterdir()).stat().st_size == LENGTH
    file.close()


def test_a_home_that_cannot_be_written_to_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    file = VitalsFile(tmp_path / "home", "spore", "s")
    file.write("working")
    file.close()


def test_what_is_no_vitals_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere") == []
    (tmp_path / "vitals").mkdir()
    for number, text in enumerate(("", "[]", "{}", '{"kind": "spore"}', "\0")):
        (tmp_path / "vitals" / f"{number}.json").write_text(text)
    assert read(tmp_path) == []
