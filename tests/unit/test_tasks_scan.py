"""Scanning source files: what is found, what is skipped, which path is meant, and that it works
where Celery runs it.
"""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from hive.errors import InvalidInputError, ScanError
from hive.tasks.findings import Finding
from hive.tasks.scan import scan_path, scannable_files

SHELL = (
    "import subprocess\n\n\ndef run(command):\n    return subprocess.call(command, shell=True)\n"
)
AWS_KEY = "AKIA" + "Z7QW3ERTYPLMNBVC"
CONFIG = f'region = "eu-west-1"\naccess_key = "{AWS_KEY}"\n'


def rules(report: dict[str, Any], path: Path | None = None) -> set[tuple[str, int]]:
    return {
        (found["rule"], found["line"])
        for found in report["findings"]
        if path is None or found["path"] == str(path)
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository with a problem of each tool."""
    package = tmp_path / "repo" / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "shell.py").write_text(SHELL)
    (package / "clean.py").write_text("def double(number):\n    return 2 * number\n")
    (package.parent / "settings.toml").write_text(CONFIG)
    return tmp_path / "repo"


def test_bandit_findings_are_typed_records(tree: Path) -> None:
    file = tree / "src" / "package" / "shell.py"
    report = scan_path(str(file))
    found = next(Finding(**entry) for entry in report["findings"] if entry["rule"] == "B602")
    assert (found.tool, found.severity, found.confidence, found.path, found.line) == (
        "bandit",
        "HIGH",
        "HIGH",
        str(file),
        5,
    )
    assert "shell=True" in found.text


def test_secrets_are_found_in_any_text_file_and_never_repeated(tree: Path) -> None:
    file = tree / "src" / "settings.toml"
    report = scan_path(str(file))
    assert ("AWSKeyDetector", 2) in rules(report)
    assert {found["tool"] for found in report["findings"]} == {"detect-secrets"}
    assert AWS_KEY not in json.dumps(report)


def test_a_password_that_bandit_quotes_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "login.py"
    file.write_text(
        "password = 'hunter2-hunter2'\nlogin(password='other-hunter2')\n\n\ndef "
        "f(password='third-hunter2'):\n    pass\n"
    )
    report = scan_path(str(file))
    assert {("B105", 1), ("B106", 2), ("B107", 5)} <= rules(report)
    assert "hunter2" not in json.dumps(report)


def test_a_directory_is_scanned_and_counted(tree: Path) -> None:
    report = scan_path(str(tree))
    findings = report["findings"]
    assert report["path"] == str(tree)
    assert {Path(found["path"]).name for found in findings} == {"shell.py", "settings.toml"}
    levels = [found["severity"] for found in findings]
    summary = {"files": 4, "findings": len(findings), "skipped": 0}
    assert report["summary"] == summary | {
        level.lower(): levels.count(level) for level in ("HIGH", "MEDIUM", "LOW")
    }
    assert levels == sorted(levels, key=["HIGH", "MEDIUM", "LOW"].index)
    assert json.loads(json.dumps(report)) == report


def test_a_map_over_the_files_of_a_tree_finds_what_a_scan_of_the_tree_finds(tree: Path) -> None:
    files = scannable_files(str(tree))
    assert files == sorted(files)
    assert len(files) == 4
    apart = [found for file in files for found in scan_path(file)["findings"]]
    whole = scan_path(str(tree))["findings"]
    key = json.dumps
    assert sorted(apart, key=key) == sorted(whole, key=key)


def test_what_is_not_scanned_is_said(tree: Path, tmp_path: Path) -> None:
    (tree / "logo.dat").write_bytes(b"\x89PNG\0\0")
    (tree / "huge.txt").write_text("x" * 1_048_577)
    (tree / "style.css").write_text("a { color: red }")
    (tree / "poetry.lock").write_text("x")
    (tree / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (tree / "broken.py").write_text("def (:\n")
    (tree / "old.py").write_bytes(b"# -*- coding: latin-1 -*-\nimport pickle  # Gr\xfc\xdfe\n")
    (tree / "outside").symlink_to(tmp_path)
    (tree / "link.py").symlink_to(tree / "src" / "package" / "shell.py")
    (tree / ".venv" / "lib").mkdir(parents=True)
    (tree / ".venv" / "pyvenv.cfg").touch()
    (tree / ".venv" / "lib" / "shell.py").write_text(SHELL)
    for kept_by_tools in (".git", ".hive"):
        (tree / kept_by_tools).mkdir()
        (tree / kept_by_tools / "config.py").write_text(SHELL)
    report = scan_path(str(tree))
    assert {Path(entry["path"]).name: entry["reason"] for entry in report["skipped"]} == {
        "logo.dat": "binary",
        "huge.txt": "larger than 1 MiB (1,048,577 bytes)",
        "style.css": ".css files are not scanned",
        "poetry.lock": "a lock file",
        "latin.txt": "not UTF-8",
        "broken.py": "bandit: syntax error while parsing AST from file",
        "old.py": "not UTF-8; not searched for secrets",
        "outside": "a link",
        "link.py": "a link",
        ".venv": "installed packages",
    }
    assert report["summary"]["skipped"] == 10
    assert rules(report, tree / "old.py") == {("B403", 2)}
    assert rules(report, tree / "src" / "package" / "shell.py") >= {("B602", 5)}
    assert not any(
        left_out in found["path"]
        for found in report["findings"]
        for left_out in (".venv", ".git", ".hive")
    )
    names = {Path(file).name for file in scannable_files(str(tree))}
    assert names == {"__init__.py", "shell.py", "clean.py", "settings.toml", "broken.py", "old.py"}


def test_a_file_that_cannot_be_scanned_is_reported_when_it_is_the_only_one(tmp_path: Path) -> None:
    file = tmp_path / "logo.dat"
    file.write_bytes(b"\0\0")
    report = scan_path(str(file))
    assert report["summary"]["files"] == 0
    assert report["skipped"] == [{"path": str(file), "reason": "binary"}]
    assert scannable_files(str(file)) == []


def test_a_tree_below_a_directory_called_swagger_is_searched_for_secrets(tmp_path: Path) -> None:
    file = tmp_path / "swagger-client" / "settings.toml"
    file.parent.mkdir()
    file.write_text(CONFIG)
    assert ("AWSKeyDetector", 2) in rules(scan_path(str(file)))


def test_a_name_that_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.py").write_text(SHELL)
    report = scan_path(str(tmp_path))
    assert report["skipped"] == [
        {"path": str(tmp_path / "caf\\udce9.py"), "reason": "its name is not UTF-8"}
    ]
    json.dumps(report).encode()


def test_a_path_that_does_not_exist_is_looked_for_under_the_root(tree: Path) -> None:
    expected = scan_path(str(tree / "src"))
    assert scan_path("/src", root=str(tree)) == expected
    assert scan_path(path="/src/package/../", root=str(tree)) == expected
    assert scan_path("src", root=str(tree)) == expected


def test_a_path_that_exists_is_taken_as_given(tree: Path, tmp_path: Path) -> None:
    assert scan_path(str(tree / "src"), root=str(tmp_path)) == scan_path(str(tree / "src"))


def test_a_relative_path_is_the_callers_before_it_is_the_nodes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node" / "src").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "node")
    assert scan_path("src", root=str(tree))["path"] == str(tree / "src")
    assert scan_path("src")["path"] == str(tmp_path / "node" / "src")


@pytest.mark.parametrize(
    "path", ["../outside.py", "/../outside.py", "/src/../../outside.py", "/way/out.py"]
)
def test_nothing_leads_out_of_the_root(tree: Path, path: str) -> None:
    (tree.parent / "outside.py").write_text(SHELL)
    (tree.parent / "out").mkdir()
    (tree.parent / "out" / "out.py").write_text(SHELL)
    (tree / "way").symlink_to(tree.parent / "out")
    with pytest.raises(ScanError, match="There is no file or directory"):
        scan_path(path, root=str(tree))


@pytest.mark.parametrize("path", ["no/such/path", "a\0b", "x" * 5000, "/" + "y/" * 3000])
def test_a_path_that_is_nowhere_is_a_clear_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="There is no file or directory"):
        scan_path(path, root=str(tmp_path))
    with pytest.raises(ScanError, match="There is no file or directory"):
        scannable_files(path)


def test_an_input_without_a_path_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="scan_path"):
        scan_path("")
    with pytest.raises(InvalidInputError, match="scan_path"):
        scan_path(root="/")


def _scan_in_child(path: str, answer: Connection) -> None:
    try:
        answer.send((multiprocessing.current_process().daemon, scan_path(path)))
    except BaseException as error:  # noqa: BLE001 - the parent must see any of them
        answer.send((None, repr(error)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemonic_process_as_celerys_can_scan(tree: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    start: Any = context.Process
    child = start(target=_scan_in_child, args=(str(tree), sender), daemon=True)
    child.start()
    sender.close()
    try:
        assert receiver.poll(60), "the child sent nothing"
        daemonic, report = receiver.recv()
    finally:
        child.kill()
        child.join(10)
    assert daemonic is True
    assert report == scan_path(str(tree))
