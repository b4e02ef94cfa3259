"""What a person types for a skill, read as values."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from hive.cli.items import json_object, read_items, split_arguments, value_of, with_fields
from hive.errors import InvalidInputError
from hive.skills import Skill
from hive.tasks.web import fetch


class PageInput(BaseModel):
    url: str
    sentences: int = 3


SKILL = Skill("page", "reads a page", fetch, input=PageInput)
PLAIN = Skill("plain", "", fetch)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('"3"', "3"),
        ('{"url": "x"}', {"url": "x"}),
        ("[1, 2]", [1, 2]),
        ("https://example.org/?a=b", "https://example.org/?a=b"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("[NaN]", "[NaN]"),
        *((text, text) for text in ("12e45678", "-1e999", "5e-400", "0123", "1_000", "9" * 5_000)),
        ('{"x": 12e45678}', '{"x": 12e45678}'),
        (r'"half an emoji \ud83d"', "half an emoji \ud83d"),
        ("\udcff", "\udcff"),
        ("a\0b", "a\0b"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_word_is_a_json_value_where_it_parses_as_one(text: str, value: object) -> None:
    assert value_of(text) == value


def test_named_arguments_are_told_from_texts_with_an_equals_sign() -> None:
    assert split_arguments(["https://e.org/?a=b", "sentences=2", "text=a=b", '"a=b"']) == (
        ["https://e.org/?a=b", "a=b"],
        {"sentences": 2, "text": "a=b"},
    )


def test_a_named_argument_given_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="sentences is given twice"):
        split_arguments(["sentences=2", "sentences=3"])


@pytest.mark.parametrize("text", ["{", "[1]", "3", "gpu"])
def test_requirements_that_are_no_json_object_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="Example: --requirements"):
        json_object(text, "--requirements")


def test_several_words_are_the_items_even_where_they_name_files(tmp_path: Path) -> None:
    first = tmp_path / "a.txt"
    first.write_text("x\n")
    assert read_items([str(first), "2"]) == [str(first), 2]


@pytest.mark.parametrize(
    ("name", "text", "items"),
    [
        ("a.json", '[1, "two", {"url": 3}]', [1, "two", {"url": 3}]),
        ("a.json", "\ufeff[1]", [1]),
        ("a.txt", "https://a/\n\n  https://b/  \n3\n", ["https://a/", "https://b/", 3]),
        ("a.jsonl", '{"url": 1}\n{"url": 2}\n', [{"url": 1}, {"url": 2}]),
        ("a.jsonl", "[1, 2]\n[3]\n", [[1, 2], [3]]),
        ("list", "[1,\n 2]\n", [1, 2]),
        ("list", "[1, 2]\n", [1, 2]),
        ("a.txt", "https://a/\r\nhttps://b/", ["https://a/", "https://b/"]),
        ("a.txt", "one\rline\r\n 2 \r\n", ["one\rline", 2]),
        ("a.txt", "\ufeffé\n\ufeff\n", ["é", "\ufeff"]),
        ("a.txt", "12e45678\n1e5\n", ["12e45678", 1e5]),
        *(
            ("a.jsonl", f'{{"x": "a{sign}b"}}\n"{sign}"\n', [{"x": f"a{sign}b"}, sign])
            for sign in ("\u2028", "\u2029", "\x85", "\xa0")
        ),
        *(
            ("a.txt", f"a{sign}b\n{sign}c{sign}\n", [f"a{sign}b", f"{sign}c{sign}"])
            for sign in "\u2028\u2029\x85\xa0\x0b\x0c\x1c\x1d\x1e\x1f\0"
        ),
    ],
)
def test_one_word_that_names_a_file_stands_for_its_items(
    tmp_path: Path, name: str, text: str, items: list[object]
) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert read_items([str(file)]) == items
    with file.open(encoding="utf-8-sig", newline="\n") as stdin:
        assert list(read_items(["-"], stdin)) == items


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", b"{}", "not a list"),
        ("a.json", b"[1,", "not a JSON list"),
        ("a.json", b"https://a/", "not a JSON list"),
        ("a.json", b"[]", "empty list"),
        ("a.json", b"[NaN]", "not a JSON list"),
        ("a.txt", b"", "no items"),
        ("a.txt", b"\n \n", "no items"),
        ("a.txt", b"[\n1,\n", "not a JSON list"),
        ("a.txt", b"[]", "empty list"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
        ("a.txt", "x\n".encode("utf-16"), "not UTF-8"),
        ("a.json", b"[1, 12e45678]", "12e45678 is no number"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[" + b"9" * 5_000 + b"]", "not a JSON list"),
    ],
)
def test_a_file_that_holds_no_items_is_refused_with_its_fault(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=fault):
        read_items([str(file)])


@pytest.mark.parametrize("name", ["missing.json", "missing.txt", "no/such/list.jsonl"])
def test_a_missing_file_is_told_from_an_item(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"There is no file '{name}'"):
        read_items([name])


def test_an_address_that_ends_like_a_file_is_an_item() -> None:
    assert read_items(["https://example.org/robots.txt"]) == ["https://example.org/robots.txt"]


def test_an_item_longer_than_any_file_name_is_an_item() -> None:
    assert read_items(["x" * 10_000]) == ["x" * 10_000]


def test_empty_input_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidInputError, match="stdin is empty"):
        read_items(["-"], io.StringIO(""))


def test_lines_of_stdin_become_items_as_they_come() -> None:
    taken = []

    def lines() -> io.StringIO:
        class Counting(io.StringIO):
            def __next__(self) -> str:
                line = super().__next__()
                taken.append(line)
                return line

        return Counting("".join(f"{number}\n" for number in range(1000)))

    items = iter(read_items(["-"], lines()))
    assert [next(items), next(items)] == [0, 1]
    assert len(taken) <= 3


def test_a_field_is_added_to_every_item_and_an_items_own_wins() -> None:
    items = with_fields(
        SKILL, ["https://a/", {"url": "https://b/", "sentences": 5}], {"sentences": 2}
    )
    assert items == [{"sentences": 2, "url": "https://a/"}, {"sentences": 5, "url": "https://b/"}]


def test_fields_are_added_to_a_stream_without_reading_it() -> None:
    items = with_fields(SKILL, iter(["https://a/"]), {"sentences": 2})
    assert not isinstance(items, list)
    assert json.dumps(list(items)) == '[{"sentences": 2, "url": "https://a/"}]'


@pytest.mark.parametrize(
    ("skill", "fields", "fault"),
    [
        (PLAIN, {"sentences": 2}, "no input model"),
        (SKILL, {"sentence": 2}, "no field 'sentence'. Its fields: url, sentences"),
        (SKILL, {"sentences": "many"}, "--set sentences"),
    ],
)
def test_a_field_that_no_item_could_have_is_refused(
    skill: Skill, fields: dict[str, object], fault: str
) -> None:
    with pytest.raises(InvalidInputError, match=fault):
        with_fields(skill, ["https://a/"], fields)


def test_a_stdin_that_is_closed_is_told_of_in_a_sentence() -> None:
    command = f"{sys.executable} -m hive map fetch - <&-"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert "stdin" in ran.stderr
