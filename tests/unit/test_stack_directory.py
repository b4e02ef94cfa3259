"""A stack's directory: its name, its secrets, and what people have changed in it."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from hive.errors import InvalidInputError, SettingsError
from hive.settings import SHORTEST_PASSWORD
from hive.stack import secrets
from hive.stack.directory import StackDirectory, packaged, packaged_compose, stacks_in
from hive.stack.errors import StackError

ROOT = Path(__file__).parents[2]
COMPOSE = "services: {redis: {image: x, environment: [REDIS_PASSWORD, REDIS_ADMIN_PASSWORD]}}\n"


def prepared(directory: StackDirectory, text: str = COMPOSE, *, own: bool = True) -> StackDirectory:
    with directory.prepared(text, own=own):
        pass
    return directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["hive", "a", "0", "shop-2_b", "x" * 63])
def test_a_name_that_compose_takes_is_a_directory_of_its_own(tmp_path: Path, name: str) -> None:
    assert StackDirectory(tmp_path, name).path == tmp_path.resolve() / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "a.b", "-a", "_a", "Hive", "a b", "a\n", "ä", "x" * 64],
)
def test_a_name_does_not_lead_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="A stack cannot be called"):
        StackDirectory(tmp_path, name)


def test_secrets_are_made_at_the_first_start_for_their_owner_alone_and_kept(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path / "stacks", "hive"), packaged_compose())
    made = directory.values()
    wanted = {secret.name for secret in secrets.SECRETS}
    assert made.keys() == wanted
    assert len(set(made.values())) == len(wanted)
    assert all(len(value or "") >= SHORTEST_PASSWORD for value in made.values())
    assert mode(directory.env_file) == 0o600
    assert mode(directory.path) == 0o700
    assert prepared(directory, packaged_compose()).values() == made


def test_a_secret_that_a_later_release_needs_is_added_to_what_is_there(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path, "hive")
    directory.path.mkdir()
    mine = "HIVE_DRAIN_TIMEOUT=60\nREDIS_PASSWORD=" + "x" * 32
    directory.env_file.write_text(mine)
    directory.env_file.chmod(0o644)
    values = prepared(directory).values()
    assert directory.env_file.read_text().startswith(mine + "\n")
    assert values["HIVE_DRAIN_TIMEOUT"] == "60"
    assert values["REDIS_PASSWORD"] == "x" * 32
    assert len(values["REDIS_ADMIN_PASSWORD"] or "") >= SHORTEST_PASSWORD
    assert mode(directory.env_file) == 0o600


@pytest.mark.parametrize("weak", ["", "short", "x" * 31])
def test_a_weak_secret_is_refused_and_named_but_not_shown(tmp_path: Path, weak: str) -> None:
    directory = StackDirectory(tmp_path, "hive")
    directory.path.mkdir()
    directory.env_file.write_text(f"REDIS_ADMIN_PASSWORD={weak}\n")
    with pytest.raises(SettingsError) as refused, directory.prepared(COMPOSE, own=True):
        pytest.fail("it went on")
    assert f"REDIS_ADMIN_PASSWORD has {len(weak)} characters, and needs at least 32" in str(
        refused.value
    )
    assert "openssl rand -hex 32" in str(refused.value)
    assert "REDIS_PASSWORD has" not in str(refused.value)
    assert not weak or weak not in str(refused.value)
    assert not directory.exists()


def test_any_character_may_be_in_a_secret(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path, "hive")
    directory.path.mkdir()
    secret = 'a$b#c"d e${HOME}f%g&h/i:j@k' + "x" * 10
    directory.env_file.write_text(f"REDIS_PASSWORD='{secret}'\n")
    assert prepared(directory).values()["REDIS_PASSWORD"] == secret


def test_a_file_that_names_no_secret_gets_none(tmp_path: Path) -> None:
    assert prepared(StackDirectory(tmp_path, "web"), "services: {}\n").values() == {}


def test_the_default_compose_file_is_the_one_at_the_top(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"), packaged_compose(), own=False)
    assert directory.compose_file.read_bytes() == (ROOT / "docker-compose.yml").read_bytes()
    for file in (ROOT / "config").iterdir():
        assert (directory.path / "config" / file.name).read_bytes() == file.read_bytes()
        # The containers' users read them.
        assert mode(directory.path / "config" / file.name) & 0o444 == 0o444


def test_what_somebody_edited_in_config_stays_and_is_told(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"))
    edited = directory.path / "config" / "redis.conf"
    assert directory.edited() == []
    edited.write_text("maxmemory 1gb\n")
    assert prepared(directory).edited() == ["config/redis.conf"]
    assert edited.read_text() == "maxmemory 1gb\n"


def test_a_file_of_an_earlier_release_that_nobody_edited_is_replaced(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"))
    file = directory.path / "config" / "redis.conf"
    file.write_text("# of an earlier release\n")
    record = json.loads((directory.path / "stack.json").read_text())
    record["written"]["config/redis.conf"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (directory.path / "stack.json").write_text(json.dumps(record))
    assert prepared(directory).edited() == []
    assert file.read_bytes() == (packaged() / "config" / "redis.conf").read_bytes()


def test_a_compose_file_that_is_refused_leaves_the_one_before(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"))
    with pytest.raises(StackError), directory.prepared("services: {other: {}}", own=True):
        raise StackError("refused")
    assert directory.compose_file.read_text() == COMPOSE
    assert not list(directory.path.glob("*.new"))


def test_whose_compose_file_it_is_is_remembered(tmp_path: Path) -> None:
    assert prepared(StackDirectory(tmp_path, "shop"), own=True).has_own_file()
    assert not prepared(StackDirectory(tmp_path, "hive"), own=False).has_own_file()
    assert stacks_in(tmp_path) == ["hive", "shop"]
    assert stacks_in(tmp_path / "nowhere") == []


def test_an_override_counts_as_with_compose(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"))
    override = directory.path / "docker-compose.override.yml"
    assert str(override) not in directory.options()
    override.write_text("services: {}\n")
    assert directory.options()[-4:] == [
        *("--file", str(directory.compose_file)),
        *("--file", str(override)),
    ]


def test_two_do_not_change_a_stack_at_once(tmp_path: Path) -> None:
    with (
        StackDirectory(tmp_path, "hive").locked(),
        pytest.raises(StackError, match="is changing the stack hive"),
        StackDirectory(tmp_path, "hive").locked(),
    ):
        pytest.fail("it went on")
    with StackDirectory(tmp_path, "hive").locked():
        pass
    assert not (tmp_path / "hive").exists(), "nothing was left in it"


def test_removing_it_leaves_what_others_put_there(tmp_path: Path) -> None:
    directory = prepared(StackDirectory(tmp_path, "hive"))
    mine = directory.path / "tls"
    mine.mkdir()
    directory.remove()
    assert [path.name for path in directory.path.iterdir()] == ["tls"]
    mine.rmdir()
    prepared(directory).remove()
    assert not directory.path.exists()


def test_a_directory_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "stacks").write_text("a file")
    with (
        pytest.raises(StackError, match="set HIVE_HOME to a directory"),
        StackDirectory(tmp_path / "stacks", "hive").prepared(COMPOSE, own=True),
    ):
        pytest.fail("it went on")


def test_a_settings_file_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path, "hive")
    directory.path.mkdir()
    directory.env_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StackError, match="cannot be used"):
        directory.values()
