"""Processes that are killed at a chosen command: before the broker gets it, or once it was executed
and before its answer is read.

The boundaries of an operation so list themselves: nobody has to know which commands it sends.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import redis.connection

import hive
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.scripts import Script

# To die at one of these is to die after the command before it: they change nothing that anybody
# else sees.
HARMLESS = frozenset(
    {
        *(
            "AUTH",
            "CLIENT",
            "ECHO",
            "EXEC",
            "HELLO",
            "MULTI",
            "PING",
            "PSUBSCRIBE",
            "SCRIPT",
            "SELECT",
            "SUBSCRIBE",
            "TIME",
            "UNSUBSCRIBE",
        ),
        *(
            "BLPOP",
            "EXISTS",
            "GET",
            "HEXISTS",
            "HGET",
            "HGETALL",
            "HKEYS",
            "HLEN",
            "HMGET",
            "HSCAN",
            "HVALS",
            "LLEN",
            "LRANGE",
            "MGET",
        ),
        *(
            "SCARD",
            "SISMEMBER",
            "SMISMEMBER",
            "SMEMBERS",
            "SRANDMEMBER",
            "ZCARD",
            "ZRANGE",
            "ZRANGEBYSCORE",
            "ZSCORE",
        ),
        *("dead_page", "locate", "look", "node_delta", "queue_stats", "taken_away"),
    }
)


class Fault:
    """Where a process dies: at its `at`-th command that may change something (from 0), before or
    `after` the broker has executed it.
    """

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.sent: list[str] = []

    def __call__(self, name: str) -> str | None:
        self.sent.append(name)
        if len(self.sent) - 1 != self.at:
            return None
        return "after" if self.after else "before"


def watch(ask: Callable[[str], str | None], kill: Callable[[], None] | None = None) -> None:
    """From now on ask about every command of this process that may change something; it dies when
    the answer is before or after.

    kill: what ends it; SIGKILL of the process itself if not given.
    """
    names = {script.sha: script.name for script in scripts()}
    send: Any = redis.connection.Connection.send_packed_command
    end = kill or (lambda: os.kill(os.getpid(), signal.SIGKILL))

    def send_and_die(self: Any, command: Any, check_health: bool = True) -> Any:
        packed = [command] if isinstance(command, bytes) else list(command)
        data = b"".join(part.encode() if isinstance(part, str) else part for part in packed)
        for start, stop, words in _commands(data):
            name = _name(words, names)
            when = ask(name) if name not in HARMLESS else None
            if when is None:
                continue
            part = data[: stop if when == "after" else start]
            if part:
                send(self, [part], check_health)
                # One look at the answer tells that all of it was executed: the server reads and
                # answers a small batch at once.
                self._sock.settimeout(30)
                self._sock.recv(1, socket.MSG_PEEK)
            end()
        return send(self, packed, check_health)

    redis.connection.Connection.send_packed_command = send_and_die  # type: ignore[method-assign]


def _name(words: list[bytes], scripts: dict[str, str]) -> str:
    name = words[0].decode().upper()
    if name == "EVALSHA":
        return scripts.get(words[1].decode(), "script")
    return name


def scripts() -> Iterator[Script]:
    """All of Hive's, with either of their texts."""
    root = Path(hive.__file__).parent
    for file in root.rglob("lua/*.lua"):
        package = ".".join(("hive", *file.relative_to(root).parts[:-2]))
        heard = "hive.broker.nodes:hearing"
        for include in ((), (heard,), (LIBRARY,), (LIBRARY, heard), (LIBRARY, f"{package}:lib")):
            if all(_exists(part) for part in include):
                for refusable in (False, True):
                    yield Script(package, file.stem, include=include, refusable=refusable)


def _exists(part: str) -> bool:
    package, _, name = part.partition(":")
    return (files(package) / "lua" / f"{name}.lua").is_file()


def _commands(data: bytes) -> Iterator[tuple[int, int, list[bytes]]]:
    """The commands of a packed batch: begin, end, words."""
    at = 0
    while at < len(data):
        start = at
        count, at = _number(data, at)
        words = []
        for _ in range(count):
            length, at = _number(data, at)
            words.append(data[at : at + length])
            at += length + 2
        yield start, at, words


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = data.index(b"\r\n", at)
    return int(data[at + 1 : end]), end + 2
