"""Requirements files: each rule, pip's syntax, and what includes may lead to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hive.errors import ScanError
from hive.tasks.scan import scan_requirements

HASH = "--hash=sha256:" + "0" * 64


def scan(tmp_path: Path, text: str, **others: str) -> dict[str, Any]:
    for name, content in others.items():
        (tmp_path / f"{name}.txt").write_text(content)
    file = tmp_path / "requirements.txt"
    file.write_text(text)
    report: dict[str, Any] = scan_requirements(str(file))
    assert json.loads(json.dumps(report)) == report
    return report


def rules(report: dict[str, Any]) -> list[tuple[int, str]]:
    return sorted((found["line"], found["rule"]) for found in report["findings"])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"requests==2.32.0 {HASH}", []),
        (f"requests[socks]===2.32.0 ; python_version >= '3.11' {HASH}", []),
        ("requests==2.32.0", ["missing-hash"]),
        ("requests", ["unpinned"]),
        ("requests>=2,<3", ["unpinned"]),
        ("requests==2.*", ["unpinned"]),
        ("requests~=2.32.0", ["unpinned"]),
        ("requests @ https://example.org/requests.whl", ["direct-url", "missing-hash"]),
        (f"https://example.org/requests.whl {HASH}", ["direct-url"]),
        ("https://example.org/requests.whl#sha256=" + "0" * 64, ["direct-url"]),
        ("git+https://example.org/requests.git", ["vcs"]),
        ("requests @ git+https://example.org/requests.git@" + "a" * 40, ["vcs"]),
        ("-e git+https://example.org/requests.git#egg=requests", ["vcs"]),
        ("--editable=.", ["local-path"]),
        ("./packages/thing-1.0.tar.gz", ["local-path"]),
        ("thing-1.0-py3-none-any.whl", ["local-path"]),
        ("requests=2.32.0", ["unparsable"]),
        ("!!! not a requirement", ["unparsable"]),
        ("--no-such-option", ["unparsable"]),
        ("--pre", []),
        ("--require-hashes", []),
        ("--index-url https://example.org/simple", []),
        ("--extra-index-url=http://example.org/simple", ["insecure-index"]),
        ("-i http://example.org/simple", ["insecure-index"]),
        ("--trusted-host example.org", ["insecure-index"]),
        ("# only a comment", []),
        ("requests==2.32.0  # why not newer", ["missing-hash"]),
        ("", []),
    ],
)
def test_each_kind_of_line_has_its_rule(tmp_path: Path, line: str, found: list[str]) -> None:
    assert [rule for _, rule in rules(scan(tmp_path, f"{line}\n"))] == found


def test_a_record_says_where_and_what(tmp_path: Path) -> None:
    report = scan(tmp_path, "\n# tools\nrequests>=2\n")
    assert report["findings"] == [
        {
            "tool": "requirements",
            "rule": "unpinned",
            "severity": "MEDIUM",
            "confidence": "HIGH",
            "path": str(tmp_path / "requirements.txt"),
            "line": 3,
            "text": "requests is not pinned to one version (>=2)",
        }
    ]
    assert report["summary"] == {
        "files": 1,
        "findings": 1,
        "high": 0,
        "medium": 1,
        "low": 0,
        "skipped": 0,
    }
    assert report["requirements"] == 1


def test_a_lock_file_with_continued_lines_is_clean(tmp_path: Path) -> None:
    report = scan(
        tmp_path,
        f"# made by a tool\nrequests==2.32.0 \\\n    {HASH} \\\n    {HASH}\n    # via "
        f"hive\nurllib3==2.5.0 \\\n    {HASH}\n",
    )
    assert report["findings"] == []
    assert report["requirements"] == 2


def test_a_continued_line_is_reported_where_it_begins(tmp_path: Path) -> None:
    assert rules(scan(tmp_path, "\nrequests \\\n  >=2\nflask\n")) == [
        (2, "unpinned"),
        (4, "unpinned"),
    ]


def test_transport_without_encryption_weighs_more(tmp_path: Path) -> None:
    report = scan(tmp_path, "a @ http://example.org/a.whl\nb @ git+http://example.org/b.git\n")
    assert [
        (found["rule"], found["severity"])
        for found in report["findings"]
        if found["severity"] == "HIGH"
    ] == [
        ("direct-url", "HIGH"),
        ("vcs", "HIGH"),
    ]


def test_a_branch_is_told_from_a_commit(tmp_path: Path) -> None:
    report = scan(
        tmp_path, f"git+https://example.org/a.git@main\ngit+https://example.org/b.git@{'b' * 40}\n"
    )
    assert ["not at a fixed commit" in found["text"] for found in report["findings"]] == [
        True,
        False,
    ]


def test_logins_in_addresses_are_hidden(tmp_path: Path) -> None:
    text = (
        "a @ https://user:hunter2@example.org/a.whl\n"
        "--index-url http://user:hunter2@example.org/\n"
        "-r https://user:hunter2@example.org/r.txt\n"
    )
    assert "hunter2" not in json.dumps(scan(tmp_path, text))


def test_included_files_are_scanned_once_each(tmp_path: Path) -> None:
    report = scan(
        tmp_path,
        "-r base.txt\n--requirement=dev.txt\nflask\n",
        base="-r requirements.txt\n-r dev.txt\nrequests\n",
        dev="-rbase.txt\npytest\n",
    )
    found = {(Path(entry["path"]).name, entry["text"].split()[0]) for entry in report["findings"]}
    assert found == {("requirements.txt", "flask"), ("base.txt", "requests"), ("dev.txt", "pytest")}
    assert (report["summary"]["files"], report["requirements"]) == (3, 3)


def test_a_constraint_pins_the_requirement_it_names(tmp_path: Path) -> None:
    report = scan(
        tmp_path,
        "Flask_Login\nrequests\n-c constraints.txt\n",
        constraints="flask-login==1.0\nrequests<3\nunused==1\n",
    )
    assert [found["text"].split()[0] for found in report["findings"]] == ["requests"]
    assert report["requirements"] == 2


def test_an_include_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    report = scan(tmp_path, "-r nowhere.txt\n-r a\0b\n")
    assert rules(report) == [(1, "unparsable"), (2, "unparsable")]


def test_includes_stay_in_the_directory_tree(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("requests\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.txt").symlink_to(tmp_path / "outside.txt")
    report = scan(inner, "-r ../outside.txt\n-r link.txt\n-r https://example.org/r.txt\n")
    assert report["findings"] == []
    assert [entry["reason"] for entry in report["skipped"]] == ["not in this directory tree"] * 3
    whole = scan_requirements("inner/requirements.txt", root=str(tmp_path))
    assert rules(whole) == [(1, "unpinned")]


def test_a_directory_means_its_requirements_file(tmp_path: Path) -> None:
    scan(tmp_path, "requests\n")
    assert rules(scan_requirements(str(tmp_path))) == [(1, "unpinned")]
    assert rules(scan_requirements(root=str(tmp_path))) == [(1, "unpinned")]
    assert rules(scan_requirements("/requirements.txt", root=str(tmp_path))) == [(1, "unpinned")]


def test_a_file_that_is_no_requirements_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("# Grüße".encode("latin-1"))
    (tmp_path / "huge.txt").write_text("#" * 1_048_577)
    with pytest.raises(ScanError, match="not UTF-8"):
        scan_requirements(str(tmp_path / "latin.txt"))
    with pytest.raises(ScanError, match="larger than 1 MiB"):
        scan_requirements(str(tmp_path / "huge.txt"))
    with pytest.raises(ScanError, match=r"There is no requirements\.txt"):
        scan_requirements(str(tmp_path))
    with pytest.raises(ScanError, match="There is no file or directory"):
        scan_requirements("nowhere.txt", root=str(tmp_path))
