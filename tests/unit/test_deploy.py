"""The units that are shipped, and what `hive deploy systemd` decides without systemd: whose a file
is, which `hive` services can run, and what it is asked for.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from hive.cli.main import execute
from hive.deploy.files import (
    GPU,
    SERVICES,
    SHIPPED,
    TARGET,
    Places,
    Record,
    shipped,
    unit_files,
    written_whole,
)
from hive.deploy.program import usable
from hive.errors import HiveError
from hive.process.signal_events import LONGEST_WAIT

REPOSITORY = Path(__file__).parents[2]
CONFINED = "What follows takes away"


def lines(name: str) -> list[str]:
    """What a unit says to systemd."""
    return [line for line in shipped(name).splitlines() if line and not line.startswith("#")]


def value(name: str, key: str) -> str:
    (found,) = [line.partition("=")[2] for line in lines(name) if line.startswith(f"{key}=")]
    return found


def test_the_package_has_the_units_of_the_checkout() -> None:
    there = {path.name: path.read_bytes() for path in (REPOSITORY / "deploy/systemd").iterdir()}
    assert there.keys() == {*SERVICES, TARGET, GPU}
    assert there == {name: (SHIPPED / name).read_bytes() for name in there}
    example = (REPOSITORY / "config/hive.env.example").read_bytes()
    assert (SHIPPED / "hive.env.example").read_bytes() == example


def test_all_services_are_confined_alike() -> None:
    first, *others = (
        shipped(name).partition(CONFINED)[2].partition("drop-in")[2].splitlines()[1:]
        for name in SERVICES
    )
    assert len(first) > 25
    assert [rest for rest in others if rest[1:] != first[1:]] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_the_command_of_its_name_and_no_secret_is_in_its_unit(name: str) -> None:
    command = name.removeprefix("hive-").partition(".")[0].rstrip("@")
    assert value(name, "ExecStart") == f"/usr/bin/hive {command}"
    assert "PASSWORD" not in shipped(name).upper()


def test_systemd_waits_longer_for_a_sign_than_a_loop_ever_sleeps() -> None:
    for name in SERVICES[:2]:
        assert float(value(name, "WatchdogSec")) >= 3 * LONGEST_WAIT


def test_the_drop_in_for_gpus_has_a_section() -> None:
    parsed = configparser.ConfigParser(strict=False)
    parsed.read_string(shipped(GPU))
    assert parsed["Service"]["PrivateDevices"] == "no"


def test_only_the_path_of_the_program_differs_on_a_machine(tmp_path: Path) -> None:
    places = Places(tmp_path)
    texts = unit_files(places, Path("/opt/hive/bin/hive"), gpu=True)
    assert {path.name for path in texts} == {*SERVICES, TARGET, GPU}
    for path, text in texts.items():
        assert text.replace("/opt/hive/bin/hive", "/usr/bin/hive") == shipped(path.name)
        assert ("ExecStart=/opt/hive/bin/hive " in text) == (path.name in SERVICES)


def test_a_file_is_hives_as_long_as_it_is_as_hive_wrote_it(tmp_path: Path) -> None:
    unit, record = tmp_path / "a.service", tmp_path / "deployed.json"
    unit.write_text("old\n")
    Record().adding({unit: "old\n"}).adding({unit: "new\n"}).write(record)
    known = Record.read(record)
    assert known.knows(unit)
    unit.write_text("new\n")
    assert known.knows(unit)
    unit.write_text("mine\n")
    assert not known.knows(unit)
    assert not Record.read(tmp_path / "none").knows(unit)


def test_a_masked_unit_is_not_hives(tmp_path: Path) -> None:
    real, unit = tmp_path / "real", tmp_path / "a.service"
    real.write_text("same\n")
    unit.symlink_to(real)
    assert not Record().adding({unit: "same\n"}).knows(unit)


def test_a_record_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "deployed.json").write_text("{")
    with pytest.raises(HiveError, match="cannot be read"):
        Record.read(tmp_path / "deployed.json")


def test_files_appear_together_and_with_their_rights(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "a", tmp_path / "two" / "b"
    with written_whole({first: "1\n", second: "2\n"}, 0o640):
        assert not first.exists()
        assert not second.exists()
    assert (first.read_text(), second.read_text()) == ("1\n", "2\n")
    assert first.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in first.parent.iterdir()) == ["a"]


def test_what_fails_in_between_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    kept = tmp_path / "kept"
    kept.write_text("before\n")
    texts = {kept: "after\n", tmp_path / "new" / "a": "1\n", tmp_path / "in-the-way" / "b": "2\n"}
    with pytest.raises(OSError, match="in-the-way"), written_whole(texts):
        pass
    with pytest.raises(KeyError), written_whole({kept: "after\n", tmp_path / "new" / "a": "1\n"}):
        raise KeyError
    assert kept.read_text() == "before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in-the-way", "kept"]


@pytest.mark.parametrize(
    ("part", "hides"),
    [
        ("/home/ann/venv/lib", "/home, which their ProtectHome hides"),
        ("/root/.pyenv/versions/3.11", "/root, which their ProtectHome hides"),
        ("/tmp/venv", "/tmp, which their PrivateTmp hides"),
    ],
)
def test_a_hive_with_a_part_that_services_do_not_see_is_refused(part: str, hides: str) -> None:
    with pytest.raises(HiveError, match=hides):
        usable(Path("/usr/bin/env"), (Path("/usr/lib/python3"), Path(part)))


def test_a_hive_that_is_not_there_is_refused() -> None:
    with pytest.raises(HiveError, match="There is no /opt/nothing/bin/hive"):
        usable(Path("/opt/nothing/bin/hive"), ())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--spores", "a/b"], "'a/b' is no name"),
        (["--spores", "a@b"], "'a@b' is no name"),
        (["--spores", "a,,b"], "'' is no name"),
        (["--spores", "101"], "101 are too many"),
        (["--remove", "--flower"], "goes with --dry-run only"),
        (["--remove", "--spores", "2"], "goes with --dry-run only"),
    ],
)
def test_wrong_use_is_told_and_ends_with_2(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["deploy", "systemd", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
