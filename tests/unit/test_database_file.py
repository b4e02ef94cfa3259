"""The files of tests/upgrade: what is written is what is read."""

from __future__ import annotations

import pytest

from tests.upgrade.database import line_of, parse


@pytest.mark.parametrize(
    "word", [b"", b"plain", b"two words", b'"', b"\\", b"\\x41", b"#", b"\n", bytes(range(256))]
)
def test_a_word_of_any_bytes_is_one_line_of_text_and_the_same_again(word: bytes) -> None:
    line = line_of((b"SET", b"key", word))
    assert line.isprintable()
    assert parse(line) == (b"SET", b"key", word)


def test_lines_are_as_redis_cli_reads_them() -> None:
    assert line_of((b"HSET", b"a:b", b"\x06\x16", b'say "x"')) == r'HSET a:b "\x06\x16" "say \"x\""'
