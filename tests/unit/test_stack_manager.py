"""`StackManager` and `hive stack` where there is no engine: sentences and exit codes."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

import hive
from hive.stack import StackManager

cli = importlib.import_module("hive.cli.main")  # the package's own `main` is the function


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without docker."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HIVE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_it_is_a_public_name() -> None:
    assert hive.StackManager is StackManager


def test_nothing_is_raised_and_nothing_is_left_where_there_is_no_engine(home: Path) -> None:
    manager = StackManager()
    for ok, said in (
        manager.deploy_default_hive_stack(),
        manager.deploy_stack("services: {a: {image: b}}", "web"),
        manager.destroy_stack("web"),
        manager.scale_service("web", "a", 2),
        manager.get_service_logs("web", "a", tail=1),
        manager.get_running_stacks(),
        manager.get_stack_status("web"),
    ):
        assert not ok
        assert str(said).startswith("There is no `docker` on the path")
    assert not home.exists()


def test_a_directory_of_ones_own_is_used(tmp_path: Path, home: Path) -> None:
    stacks = tmp_path / "mine"
    assert StackManager(stacks)._stack("web").directory.path == stacks / "web"
    assert StackManager()._stack("web").directory.path == home / "stacks" / "web"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], 3, "There is no `docker` on the path"),
        (["up"], 3, "There is no `docker` on the path"),
        (["logs", "spore"], 3, "There is no `docker` on the path"),
        (["up", "--name", "../x"], 2, "A stack cannot be called '../x'"),
        (["down", "--name", "a/b"], 2, "A stack cannot be called 'a/b'"),
        (["up", "--file", "broken.yml"], 2, "The compose file is not YAML, line 2"),
        (["up", "--file", "binary.yml"], 2, "is not YAML: it is no text"),
        (["up", "--file", "web.yml", "--spores", "2"], 2, "no service 'spore'; it has web"),
        (["scale", "many"], 2, "'many' is neither a number nor SERVICE=N"),
        (["scale", "=3"], 2, "'=3' is neither a number nor SERVICE=N"),
        (["scale", "spore=-1"], 2, "'spore=-1' is neither a number nor SERVICE=N"),
        (["down", "--volumes"], 2, "Nobody can be asked here: say --yes"),
    ],
)
def test_a_mistake_is_one_sentence_and_its_exit_code(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    (home.parent / "broken.yml").write_text("services: [\n a: b")
    (home.parent / "binary.yml").write_bytes(b"\xff\xfe\x00\x81")
    (home.parent / "web.yml").write_text("services: {web: {image: web}}")
    assert cli.execute(["stack", *arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert said in json.loads(captured.out)["error"]
    assert not home.exists()


def test_the_commands_load_neither_celery_nor_the_brokers_client() -> None:
    from tests.unit.test_imports import loaded_by

    assert shutil.which("python3")
    loaded = loaded_by("import hive.cli.stack, hive.stack")
    assert not loaded & {"celery", "kombu", "redis"}
