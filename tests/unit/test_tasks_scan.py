"""Scanning source files: what is found, what is skipped, which path is meant, and that it works
where Celery runs it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from hive.errors import InvalidInputError, ScanError
from hive.tasks.findings import Finding
from hive.tasks.scan import scan_path, scannable_files
from hive.tasks.scanner import process
from hive.tasks.scanner.process import scan_file
from hive.tasks.scanner.secret_scan import scan_text
from hive.tasks.source_tree import files_of
from tests.house import ROOT

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
        "outside": "a link",
        "link.py": "a link",
        ".venv": "installed packages",
    }
    assert report["summary"]["skipped"] == 9
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


def test_a_name_that_is_not_utf8_is_unread(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.py").write_text(SHELL)
    report = scan_path(str(tmp_path))
    assert report["skipped"] == [
        {
            "path": str(tmp_path / "caf\\udce9.py"),
            "reason": "its name is not UTF-8",
            "unread": True,
        }
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


def unread(report: dict[str, Any]) -> dict[str, str]:
    """The reasons of all that should have been scanned and was not, by the file's name."""
    return {
        Path(entry["path"]).name: entry["reason"]
        for entry in report["skipped"]
        if entry.get("unread")
    }


def test_what_should_have_been_scanned_and_was_not_is_told_from_what_is_left_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "python2.py").write_text("import pickle\nprint 'loading'\n")
    (tmp_path / "newer.py").write_text("x = t'{1}' match y\n")
    (tmp_path / "lies.py").write_bytes(b"# coding: utf-8\nx = '\xfc'\n")
    (tmp_path / "unknown.py").write_bytes(b"# coding: klingon\nx = 1\n")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0\n")
    (tmp_path / "deep.py").write_text("x = " + "(" * 500 + ")" * 500 + "\n")
    (tmp_path / "digits.py").write_text("x = " + "9" * 5000 + "\n")
    (tmp_path / "wide.ps1").write_text("$key = 'x'\r\n", encoding="utf-16")
    (tmp_path / "wide-without-mark.sql").write_text("select 1;\n" * 9, encoding="utf-16-be")
    (tmp_path / "latin.txt").write_bytes("Grüße\n".encode("latin-1"))
    (tmp_path / "nul.txt").write_bytes(b"pass\0word = 'x'\n")
    (tmp_path / "big.py").write_text("# long\n" * 200_000)
    (tmp_path / "gone.cfg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0" + bytes(2_000_000))
    (tmp_path / "encrypted.dat").write_bytes(bytes(range(1, 256)) * 40)
    (tmp_path / "package-lock.json").write_text("{}\n" * 500_000)
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfimport pickle\n")
    report = scan_path(str(tmp_path))
    assert unread(report).keys() == {
        "python2.py",
        "newer.py",
        "lies.py",
        "unknown.py",
        "nul.py",
        "deep.py",
        "digits.py",
        "wide.ps1",
        "wide-without-mark.sql",
        "latin.txt",
        "nul.txt",
        "big.py",
        "gone.cfg",
        "pipe.py",
    }
    left_out = {Path(one["path"]).name for one in report["skipped"] if "unread" not in one}
    assert left_out == {"picture.png", "encrypted.dat", "package-lock.json"}
    assert rules(report, tmp_path / "bom.py") == {("B403", 1)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may read less")
def test_what_this_user_may_not_read_is_unread(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "inside.py").touch()
    (tmp_path / "secret.py").touch()
    (tmp_path / "fine.py").touch()
    (tmp_path / "closed").chmod(0)
    (tmp_path / "secret.py").chmod(0)
    for parent in (tmp_path, *list(tmp_path.parents)[:-2]):
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        files, skipped = files_of(tmp_path)
    finally:
        os.seteuid(0)
        (tmp_path / "closed").chmod(0o755)
    assert [file.name for file in files] == ["fine.py"]
    assert {(Path(one.path).name, one.reason, one.unread) for one in skipped} == {
        ("closed", "cannot be read: Permission denied", True),
        ("secret.py", "cannot be read: Permission denied", True),
    }


def test_a_file_that_goes_away_before_it_is_scanned_is_unread(tmp_path: Path) -> None:
    for name in ("gone.py", "gone.txt"):
        findings, skipped = scan_file(tmp_path / name)
        assert findings == []
        assert {one.reason.removeprefix("bandit: ") for one in skipped} <= {
            "No such file or directory",
            "cannot be read: No such file or directory",
        }
        assert skipped
        assert all(one.unread for one in skipped)


def test_a_rule_that_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "load.py"
    # bandit's own rule reads an argument that is not there.
    file.write_text("import importlib\nimport pickle\nimportlib.import_module()\n")
    report = scan_path(str(file))
    assert "rule" in unread(report)["load.py"]
    assert ("B403", 2) in rules(report)


def test_a_python_file_in_the_encoding_that_it_declares_is_searched_for_secrets(
    tmp_path: Path,
) -> None:
    file = tmp_path / "old.py"
    file.write_bytes(f"# coding: latin-1\n# Gr\xfc\xdfe\nkey = '{AWS_KEY}'\n".encode("latin-1"))
    report = scan_path(str(file))
    assert report["skipped"] == []
    assert ("AWSKeyDetector", 3) in rules(report)


@pytest.mark.parametrize("position", [0, 2_990, 3_000, 11_000])
def test_a_secret_in_a_long_line_is_found_wherever_it_is(tmp_path: Path, position: int) -> None:
    words = "lorem ipsum " * 1_000
    file = tmp_path / "data.json"
    file.write_text(f'{{"text": "{words[:position]}", "key": "{AWS_KEY}", "more": "{words}"}}\n')
    assert ("AWSKeyDetector", 1) in rules(scan_path(str(file)))


def test_what_a_line_allows_holds_for_a_long_one(tmp_path: Path) -> None:
    file = tmp_path / "data.js"
    file.write_text(f"x = '{AWS_KEY}'; {'y = 1; ' * 1_000} // pragma: allowlist secret\n")
    assert scan_path(str(file))["findings"] == []


def test_short_lines_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "hashes.txt"
    lines = [f"line {number}" for number in range(300)]
    lines[123] = f'key = "{AWS_KEY}"'
    lines[200] = f'key = "{AWS_KEY}"  # pragma: allowlist secret'
    lines[250] = 'digest = "5f2b8a9c4d1e7063b8f24a6c9d0e1375"'
    file.write_text("\n".join(lines))
    assert rules(scan_path(str(file))) == {("AWSKeyDetector", 124), ("HexHighEntropyString", 251)}


def test_a_large_table_is_scanned_whole(tmp_path: Path) -> None:
    file = tmp_path / "table.py"
    rows = [f"    {number}: 'LATIN LETTER {number}',\n" for number in range(4_000)]
    rows[3_000] = "    'password': 'hunter2-hunter2',\n"
    rows[3_500] = "    'tmp': '/tmp/x',\n"
    rows[3_600] = "    'tmp': '/tmp/x',  # nosec\n"
    file.write_text("DATA = {\n" + "".join(rows) + "}\nimport pickle\n")
    report, took = measured(file)
    assert took < 8
    assert report["skipped"] == []
    assert {("B105", 3_002), ("B108", 3_502), ("B403", 4_003)} <= rules(report)
    assert ("B108", 3_602) not in rules(report)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("row.json", '{"rows": [' + '{"id": "5f2b8a9c4d1e7063", "n": 1},' * 1_200 + "1]}"),
        ("call.py", "f(\n" + "'v',\n" * 2_500 + ")\n"),
        ("parts.py", "x = f'" + "a{b}" * 4_000 + "'\n"),
        ("query.py", "x = '" + "select " * 30_000 + "'.format(1)\n"),
    ],
)
def test_what_used_to_take_a_square_of_time_is_scanned_whole(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    report, took = measured(tmp_path / name)
    assert took < 8
    assert report["skipped"] == []


def test_what_takes_too_long_ends_and_keeps_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "words.js"
    text = f'key = "{AWS_KEY}"\n' + "password" * 60_000
    before = time.process_time()
    findings, skipped = scan_text(file, text, 0.3)
    assert time.process_time() - before < 3
    assert [one.rule for one in findings] == ["AWSKeyDetector"]
    assert [one.unread for one in skipped] == [True]


def test_what_nothing_in_its_process_can_end_is_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FILE_CPU", 2)
    file = tmp_path / "statements.py"
    # Python's own parser takes the square of this line's length.
    file.write_text(f"key = '{AWS_KEY}'\n" + "x=1;" * 250_000)
    report, took = measured(file)
    assert took < 8
    assert "more than 2 s of CPU" in unread(report)["statements.py"]


@pytest.mark.parametrize("name", ["settings.ini", "settings.yaml"])
def test_a_large_file_of_settings_is_searched_line_by_line(tmp_path: Path, name: str) -> None:
    lines = [f"key{number}: value {number}" for number in range(9_000)]
    lines[0] = "[main]" if name.endswith("ini") else "---"
    lines[5_000] = "digest: 5f2b8a9c4d1e7063b8f24a6c9d0e1375"
    lines[6_000] = f"key: {AWS_KEY}  # not quoted"
    (tmp_path / name).write_text("\n".join(lines))
    report, took = measured(tmp_path / name)
    assert took < 12
    assert report["skipped"] == []
    assert {("HexHighEntropyString", 5_001), ("AWSKeyDetector", 6_001)} <= rules(report)


def test_a_file_that_ends_the_scanning_process_is_unread_and_the_next_is_scanned(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, "-c", "input(); exit(3)"))
    monkeypatch.setattr(process, "_idle", [])
    shell = tree / "src" / "package" / "shell.py"
    assert unread(scan_path(str(shell))) == {
        "shell.py": "not fully scanned: the scanning process ended with 3"
    }
    monkeypatch.undo()
    assert unread(scan_path(str(shell))) == {}


def test_a_scan_that_is_stopped_leaves_no_answer_for_the_next(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, clean = (tree / "src" / "package" / name for name in ("shell.py", "clean.py"))
    monkeypatch.setattr(process, "Finding", stop)
    with pytest.raises(KeyboardInterrupt):
        scan_file(shell)
    monkeypatch.undo()
    assert scan_file(clean) == ([], [])


def test_a_thread_can_scan(tree: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(scan_path, [str(tree)] * 4))
    assert reports == [scan_path(str(tree))] * 4


ASKING = """
import sys, time
from pathlib import Path
from hive.tasks.scanner import process
process.scan_file(Path(sys.argv[1]))
print(process._idle[0]._child.pid, flush=True)
time.sleep(60)
"""


def test_the_scanning_process_ends_with_the_one_that_asked(tree: Path) -> None:
    file = tree / "src" / "settings.toml"
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING, str(file)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert asking.stdout is not None
    pid = int(asking.stdout.readline())
    asking.kill()
    asking.communicate(timeout=10)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def stop(**_: object) -> None:
    raise KeyboardInterrupt


def measured(file: Path) -> tuple[dict[str, Any], float]:
    """The report of a file, and the seconds of CPU of a fresh process that scanned it."""
    process.end_all()
    before = os.times()
    report = scan_path(str(file))
    process.end_all()
    after = os.times()
    used = after.children_user + after.children_system
    return report, used - before.children_user - before.children_system
