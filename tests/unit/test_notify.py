"""What systemd is told, through a real socket, and what the journal reads of a line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.logs import tell_levels_to_journal
from hive.process.notify import Notifier
from hive.process.standing import START_WITHIN, Standing


class Manager:
    """Plays systemd: the other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    yield made
    made.socket.close()


def test_it_is_ready_once_there_is_something_to_serve_with(
    manager: Manager, tmp_path: Path
) -> None:
    standing = Standing(tmp_path, "spore", "s")
    standing.turn("starting")
    assert "READY=1" not in manager.told()
    standing.turn("waiting", "10.0.0.5:6379")
    told = manager.told()
    assert "READY=1" in told
    assert "STATUS=waits for its broker (10.0.0.5:6379)" in told
    standing.turn("working")
    standing.turn("working")
    assert manager.told() == ["STATUS=takes work", "WATCHDOG=1", "WATCHDOG=1"]
    standing.close()


def test_a_manager_that_is_too_busy_to_be_told_is_told_at_the_next_turn(
    manager: Manager, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.setblocking(False)
        others.connect(str(tmp_path / "notify"))
        with contextlib.suppress(BlockingIOError):
            while True:
                others.send(b"STATUS=of other services")
    standing = Standing(tmp_path, "spore", "s")
    standing.turn("working")
    assert "READY=1" not in manager.told()
    standing.turn("working")
    assert {"READY=1", "STATUS=takes work"} <= set(manager.told())
    standing.close()


def test_it_asks_for_time_while_it_starts_and_while_it_stops(
    manager: Manager, tmp_path: Path
) -> None:
    def asks() -> bool:
        return any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in manager.told())

    standing = Standing(tmp_path, "spore", "s")
    standing.turn("starting")
    assert asks()
    standing.turn("restarting", "its worker ended with exit code 1")
    assert not asks(), "a worker that cannot start does not start for ever"
    standing.turn("working")
    assert not asks()
    standing.turn("stopping")
    told = manager.told()
    assert "STOPPING=1" in told
    assert "EXTEND_TIMEOUT_USEC=30000000" in told
    standing.turn("stopping")
    assert asks()
    standing.close()


def test_a_start_that_never_ends_is_not_waited_for_without_end(
    manager: Manager, tmp_path: Path
) -> None:
    now = 0.0
    standing = Standing(tmp_path, "spore", "s", clock=lambda: now)
    standing.turn("starting")
    assert any(line.startswith("EXTEND") for line in manager.told())
    now = START_WITHIN + 1
    standing.turn("starting")
    assert not any(line.startswith("EXTEND") for line in manager.told())
    standing.close()


def test_an_abstract_socket_and_a_watchdog_of_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"@hive-test-{os.getpid()}"
    manager = Manager(address)
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    notifier = Notifier(environment)
    assert environment == {}, "what it starts does not speak for it"
    notifier.alive()
    notifier.status("two\nlines")
    assert manager.told() == ["STATUS=two lines"]
    manager.socket.close()
    notifier.status("to nobody")


def test_nobody_is_told_where_nobody_asked() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.alive()


def test_lines_for_the_journal_carry_their_level_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        elsewhere = io.StringIO()
        logger = logging.getLogger("hive.test.journal")
        for stream in (journal, elsewhere):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        tell_levels_to_journal(logger)
        tell_levels_to_journal(logger)
        logger.info("one")
        logger.warning("two\nlines")
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("three")
        journal.seek(0)
        lines = journal.read().splitlines()
    assert lines[:3] == ["<6>INFO one", "<4>WARNING two", "<4>lines"]
    assert lines[3] == "<3>ERROR three"
    assert all(line.startswith("<3>") for line in lines[3:])
    assert "<" not in elsewhere.getvalue().replace("<module>", "")


def test_the_sentence_of_a_command_that_fails_is_an_error_in_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        environment = os.environ | {
            "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
            "HIVE_HEARTBEAT_INTERVAL": "never",
        }
        command = [sys.executable, "-m", "hive", "nexus"]
        done = subprocess.run(command, env=environment, stderr=journal, check=False)
        journal.seek(0)
        said = journal.read()
    assert (done.returncode, said.count("\n")) == (2, 1)
    assert said.startswith("<3>hive: HIVE_HEARTBEAT_INTERVAL cannot be 'never'")
