"""Requirements files: each rule, pip's syntax, and what includes may lead to."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hive.errors import ScanError
from hive.tasks.scan import scan_path, scan_requirements

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


PINNED = f"requests==2.32.0 {HASH}\r\nflask\r\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PINNED.encode("utf-16"), id="PowerShell"),
        pytest.param(codecs.BOM_UTF16_BE + PINNED.encode("utf-16-be"), id="UTF-16, big end first"),
        pytest.param(PINNED.encode("utf-32"), id="UTF-32"),
        pytest.param(PINNED.encode("utf-8-sig"), id="UTF-8 with a mark"),
    ],
)
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "requirements.txt").write_bytes(content)
    report = scan_requirements(str(tmp_path))
    assert (rules(report), report["requirements"]) == ([(2, "unpinned")], 2)
    assert scan_path(str(tmp_path))["skipped"] == []


@pytest.mark.parametrize(
    "head", ["# -*- coding: latin-1 -*-", "#coding=cp1252", "# vim: set fileencoding:latin-1"]
)
@pytest.mark.parametrize("before", ["", "# the second line\n"])
def test_a_comment_says_the_encoding(tmp_path: Path, head: str, before: str) -> None:
    text = f"{before}{head}\n# Gr\xfc\xdfe\nflask\n"
    (tmp_path / "base.txt").write_bytes(text.encode("latin-1"))
    report = scan(tmp_path, "-r base.txt\n")
    assert rules(report) == [(3 + bool(before), "unpinned")]


def test_an_encoding_that_there_is_not_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    for content, words in (
        (b"# coding: klingon\nflask\n", "unknown encoding: klingon"),
        (b"# coding: hex\nflask\n", "'hex' is not a text encoding"),
        (b"# coding: ascii\n# \xfc\n", "nor in an encoding that it declares"),
        (b"\xff\xfef", "nor in an encoding that it declares"),
    ):
        file.write_bytes(content)
        with pytest.raises(ScanError, match=re.escape(words)):
            scan_requirements(str(file))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flask # a comment \\\nrequests\n", [(1, "unpinned")]),
        ("flask \\\n# a comment\nrequests\n", [(1, "unpinned"), (3, "unpinned")]),
        ("fla\\\nsk==1 \\\n", [(1, "missing-hash")]),
        ("flask\x0crequests\n", [(1, "unpinned"), (2, "unpinned")]),
        ("-i https://a.org --trusted-host a.org\n", [(1, "insecure-index")]),
        ("--extra-index https://a.org --find http://b.org\n", [(1, "insecure-index")]),
        ("--index-url\n", [(1, "unparsable")]),
        ("flask==1 --frozen\n", [(1, "unparsable")]),
        ("flask==1 --hash=md5:00\n", [(1, "unparsable")]),
        ("flask==1 --config-settings 'a=b\n", [(1, "unparsable")]),
        ("flask==1 -C a=b --global-option=x\n", [(1, "missing-hash")]),
        ("-e flask[async]\n", [(1, "local-path")]),
        ("packages/thing\n", [(1, "local-path")]),
        ("flask==${VERSION}\n", [(1, "unpinned")]),
        ("flask @ https://${TOKEN}@a.org/flask.whl\n", [(1, "direct-url"), (1, "missing-hash")]),
        ("--index-url https://${USER}:${TOKEN}@a.org/simple\n", []),
        (
            "requests[socks,security]==2 ; python_version < '3' and os_name == 'nt'\n",
            [(1, "missing-hash")],
        ),
    ],
)
def test_lines_are_what_pip_takes_them_for(
    tmp_path: Path, text: str, found: list[tuple[int, str]]
) -> None:
    assert rules(scan(tmp_path, text)) == found


def test_what_pip_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    report = scan(tmp_path, "flask==1 \\\n --frozen\n")
    (found,) = report["findings"]
    assert (found["line"], found["rule"]) == (1, "unparsable")
    assert found["text"] == "pip refuses this line: no such option: --frozen: flask==1  --frozen"


def test_the_nodes_environment_is_no_business_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_TEST_SECRET", "hunter2")
    report = scan(
        tmp_path,
        "-r ${HIVE_TEST_SECRET}.txt\n"
        "flask==${HIVE_TEST_SECRET}\n"
        "a @ https://a.org/${HIVE_TEST_SECRET}\n",
    )
    assert "hunter2" not in json.dumps(report)
    assert report["skipped"] == [
        {
            "path": "${HIVE_TEST_SECRET}.txt",
            "reason": "named by an environment variable",
            "unread": True,
        }
    ]


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
