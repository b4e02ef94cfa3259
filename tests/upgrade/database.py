"""A database as a file of commands, one a line, that a person can read and any server run.

Words are quoted as redis-cli does it: `grep -v '^#' FILE | redis-cli` loads one, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

BARE = re.compile(rb"[\w:.@|+-]+")
ESCAPES = {b'"': b'\\"', b"\\": b"\\\\"}
WORD = re.compile(rb'\s*(?:"((?:[^"\\]|\\.)*)"|(\S+))')
ESCAPED = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))")

Command = tuple[bytes, ...]


def read_commands(client: redis.Redis) -> Iterator[Command]:
    """The commands that make the database that `client` is connected to, sorted by key.

    What is to expire gets an EXPIRE with the whole seconds that are left, at least one.
    """
    for key in sorted(client.keys("*")):
        kind = client.type(key).decode()
        yield from READERS[kind](client, key)
        left = client.pttl(key)
        if left >= 0:
            yield (b"EXPIRE", key, b"%d" % max(1, left // 1000))


def _string(client: redis.Redis, key: bytes) -> Iterator[Command]:
    yield b"SET", key, client.get(key)


def _hash(client: redis.Redis, key: bytes) -> Iterator[Command]:
    for field, value in sorted(client.hgetall(key).items()):
        yield b"HSET", key, field, value


def _list(client: redis.Redis, key: bytes) -> Iterator[Command]:
    for element in client.lrange(key, 0, -1):
        yield b"RPUSH", key, element


def _set(client: redis.Redis, key: bytes) -> Iterator[Command]:
    for member in sorted(client.smembers(key)):
        yield b"SADD", key, member


def _sorted_set(client: redis.Redis, key: bytes) -> Iterator[Command]:
    for member, score in client.zrange(key, 0, -1, withscores=True):
        yield b"ZADD", key, repr(score).removesuffix(".0").encode(), member


def _stream(client: redis.Redis, key: bytes) -> Iterator[Command]:
    for entry_id, fields in client.xrange(key):
        yield b"XADD", key, entry_id, *(part for pair in fields.items() for part in pair)


READERS: dict[str, Callable[[Any, bytes], Iterator[Command]]] = {
    "string": _string,
    "hash": _hash,
    "list": _list,
    "set": _set,
    "zset": _sorted_set,
    "stream": _stream,
}


def line_of(command: Command) -> str:
    return b" ".join(map(_quoted, command)).decode("ascii")


def _quoted(word: bytes) -> bytes:
    if BARE.fullmatch(word):
        return word
    return b'"' + b"".join(map(_escaped, (word[at : at + 1] for at in range(len(word))))) + b'"'


def _escaped(byte: bytes) -> bytes:
    return ESCAPES.get(byte) or (byte if b" " <= byte <= b"~" else b"\\x%02x" % byte[0])


def parse(line: str) -> Command:
    return tuple(
        _unescaped(quoted) if bare is None else bare
        for quoted, bare in (match.groups() for match in WORD.finditer(line.encode("ascii")))
    )


def _unescaped(quoted: bytes) -> bytes:
    return ESCAPED.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else m[2], quoted)


def load(file: Path, client: redis.Redis) -> None:
    """Run a file's commands on an empty database."""
    with client.pipeline(transaction=True) as pipeline:
        for line in file.read_text("ascii").splitlines():
            if line and not line.startswith("#"):
                pipeline.execute_command(*parse(line))
        pipeline.execute()
