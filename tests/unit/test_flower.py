"""Flower's entrance, its options, what it keeps: what needs no server."""

from __future__ import annotations

import base64
import logging
import os
import shelve
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flower.options import default_options

from hive.cli import flower as command
from hive.cli.main import execute
from hive.errors import SettingsError
from hive.flower import page
from hive.flower.entrance import Entrance, is_local_name, logins, require_entrance
from hive.flower.history import KeptEvents, history, kept_alone
from hive.flower.serving import SAID_AGAIN_AFTER, _Once, chosen
from hive.settings import Settings

GOOD = 'x,:"ü €%' * 4


@pytest.fixture(autouse=True)
def _options_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Flower's options are the process's own."""
    for name in os.environ:
        if name.startswith(("HIVE_FLOWER_", "REDIS_")):
            monkeypatch.delenv(name)
    for name in ("HIVE_FLOWER_HOST", "HIVE_FLOWER_PORT"):  # the command sets them
        monkeypatch.setenv(name, "127.0.0.1" if name.endswith("HOST") else "0")
    monkeypatch.setenv("HIVE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = default_options.as_dict()
    yield
    for name, value in before.items():
        if name != "help":
            setattr(default_options, name, value)


def credentials(text: bytes, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(text).decode()}"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_password(address: str) -> None:
    require_entrance(address, [])
    require_entrance(address, ["hive:short"])


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.0.2.1", "::ffff:192.0.2.1"])
def test_elsewhere_every_password_has_to_be_long(address: str) -> None:
    for basic_auth, found in (([], "no password"), ([f"a:{GOOD}", "b:short"], "5 characters")):
        with pytest.raises(SettingsError, match=found):
            require_entrance(address, basic_auth)
    require_entrance(address, [f"hive:{GOOD}"])


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match=r"HIVE_FLOWER_HOST cannot be 'no\.\.name'"):
        require_entrance("no..name", [])


def test_a_login_is_known_whatever_letters_it_has() -> None:
    entrance = Entrance(logins(Settings.load(hive_flower_password=GOOD)))
    assert entrance.knows(credentials(f"hive:{GOOD}".encode()))
    assert entrance.knows(credentials(f"hive:{GOOD}".encode(), scheme="basic"))
    for wrong in (
        None,
        "",
        "Basic",
        "Basic %%%",
        "Bearer x",
        credentials(f"hive:{GOOD}".encode(), scheme="Digest"),
        credentials(f"hive:{GOOD}x".encode()),
        credentials(f"Hive:{GOOD}".encode()),
        credentials(f"hive:{GOOD[:-1]}".encode()),
        credentials(b"\xff\xfe"),
    ):
        assert not entrance.knows(wrong), wrong
    assert not entrance.knows(entrance.ticket), "what Flower is given is no login"
    assert not Entrance([]).asks


def test_a_user_or_password_that_no_browser_can_send_is_refused() -> None:
    for wrong in ({"hive_flower_user": "a:b"}, {"hive_flower_password": "a\nb"}):
        with pytest.raises(SettingsError, match="HIVE_FLOWER_"):
            Settings.load(**wrong)
    with pytest.raises(SettingsError) as told:
        Settings.load(hive_flower_password="secret\0")
    assert "secret" not in told.value.message.replace("a-long-secret", "")
    assert Settings.load(hive_flower_password="").hive_flower_password is None


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "hive.localhost", "127.0.0.1", "[::1]"])
def test_a_name_of_this_machine_is_local(name: str) -> None:
    assert is_local_name(name)


@pytest.mark.parametrize("name", ["rebound.example", "10.0.0.5", "localhost.example", ""])
def test_any_other_name_is_not(name: str) -> None:
    assert not is_local_name(name)


def test_the_shipped_options_are_read_only_and_kept() -> None:
    options: Any = chosen(None, read_write=False)
    assert (options.address, options.basic_auth) == ("127.0.0.1", [])
    assert (options.read_only, options.persistent, options.purge_offline_workers) == (
        True,
        True,
        300,
    )
    assert options.db == history(Settings.load())


def test_a_file_of_ones_own_wins_but_lets_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.py"
    own.write_text("max_tasks = 7\n")
    options: Any = chosen(own, read_write=False)
    assert (options.max_tasks, options.read_only) == (7, True)
    own.write_text("address = ''\n")
    with pytest.raises(SettingsError, match="no password"):
        chosen(own, read_write=False)
    own.write_text("read_only = False\n")
    with pytest.raises(SettingsError, match="--read-write"):
        chosen(own, read_write=False)
    monkeypatch.setenv("HIVE_FLOWER_PASSWORD", GOOD)
    options = chosen(own, read_write=False)
    assert (options.read_only, options.basic_auth) == (False, [f"hive:{GOOD}"])


@pytest.mark.parametrize("text", ["max_tasks = 'many'\n", "max_tasks =\n", "1 / 0\n"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.py"
    own.write_text(text)
    with pytest.raises(SettingsError, match=r"own\.py cannot be used"):
        chosen(own, read_write=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host=0.0.0.0",), "'0.0.0.0' with no password"),
        (("--read-write",), "only for those who log in"),
        (("--config=missing.py",), "does not exist"),
        (("--port=70000",), "70000"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    options: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert execute(["flower", *options]) == 2
    told = capfd.readouterr()
    assert said in told.err
    assert told.out == ""


def test_a_flower_that_is_missing_or_old_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_name: str) -> str:
        raise command.metadata.PackageNotFoundError("flower")

    for found, said in ((missing, "not installed"), (lambda _: "2.1.0", "2.1.0 is too old")):
        monkeypatch.setattr(command.metadata, "version", found)
        assert execute(["flower"]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert "pip install 'venom-hive[flower]'" in told


def test_each_broker_has_a_history_of_its_own_that_one_process_keeps(tmp_path: Path) -> None:
    first, second = (history(Settings.load(redis_host=host)) for host in ("::1", "10.0.0.5"))
    assert Path(first).name == "__1-6379-0"
    with (
        kept_alone(Path(first)),
        kept_alone(Path(second)),
        pytest.raises(SettingsError, match="Another hive flower"),
        kept_alone(Path(first)),
    ):
        pass
    with kept_alone(Path(first)):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="HIVE_HOME"):
        history(Settings.load(hive_home=tmp_path / "file"))


def test_what_was_seen_and_cannot_be_saved_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = KeptEvents(None, None, db=str(tmp_path / "gone" / "db"), max_tasks_in_memory=10)
    events.save_state()
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "event=flower_history_not_saved"
    ]


def test_a_history_of_another_release_is_put_aside(tmp_path: Path) -> None:
    database = tmp_path / "db"
    with shelve.open(str(database)) as written:
        written["events"] = {"of": "another release"}
    events = KeptEvents(None, None, db=str(database), persistent=True, max_tasks_in_memory=10)
    assert list(events.state.tasks) == []
    assert list(tmp_path.glob("*.corrupt"))


def test_flowers_loggers_say_a_thing_once_a_minute() -> None:
    now = [0.0]
    once = _Once(lambda: now[0])

    def passes(text: str, *values: object) -> bool:
        return once.filter(logging.makeLogRecord({"msg": text, "args": values}))

    assert passes("Failed to capture events: '%s'", "one")
    assert not passes("Failed to capture events: '%s'", "another")
    assert passes("Inspect method %s failed")
    now[0] = SAID_AGAIN_AFTER
    assert passes("Failed to capture events: '%s'", "one")


def test_what_hive_overrides_in_flower_is_still_there() -> None:
    for own, names in (
        (page.HiveFlower, ("broker_uri", "find_handler", "stop", "max_workers")),
        (page.BrokerTab, ("get_broker",)),
        (page.QueueLengths, ("get_broker",)),
        (KeptEvents, ("save_state",)),
    ):
        for name in names:
            assert name in vars(own), name
            assert hasattr(own.__mro__[1], name), name
