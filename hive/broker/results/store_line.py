"""Storing that a task has started, without waiting until that is done.

Half of what a short task costs its pool process is waiting for the server: once for STARTED, once
for the result. STARTED still goes out before the task runs, and others see it as soon as before;
but its answer is not asked for. The result follows on the same connection, and is waited for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis

from hive.broker.link.outage import passes
from hive.broker.link.scripts import Script
from hive.logs import get_logger

log = get_logger(__name__)


class _Line:
    """A connection on which a command can be sent without asking for its answer."""

    def __init__(self, connection: Any, script: Script) -> None:
        self.pid = os.getpid()
        self._connection = connection
        self._sha = script.sha
        try:
            connection.connect()
            # The script is loaded for good, unlike one that EVAL leaves behind: a command that is
            # sent without asking for an answer cannot be repeated.
            self._ask("SCRIPT", "LOAD", script.text)
            # Tried once with an answer: a user whom the server forbids CLIENT REPLY would get that
            # error later, where no answer is read.
            self._ask("CLIENT", "REPLY", "ON")
        except BaseException:
            connection.disconnect()
            raise

    @property
    def in_order(self) -> bool:
        """Whether the line stands: nothing is to be read on it, as of a closed one its end would
        be.
        """
        try:
            return not self._connection.can_read()
        except redis.exceptions.RedisError:
            return False

    def send(self, arguments: Sequence[Any]) -> None:
        commands = [("CLIENT", "REPLY", "SKIP"), ("EVALSHA", self._sha, *arguments)]
        self._connection.send_packed_command(
            self._connection.pack_commands(commands), check_health=False
        )

    def store(self, arguments: Sequence[Any]) -> int:
        return int(self._ask("EVALSHA", self._sha, *arguments))

    def close(self) -> None:
        self._connection.disconnect()

    def _ask(self, *command: Any) -> Any:
        self._connection.send_command(*command, check_health=False)
        return self._connection.read_response()


class StoreLines:
    """A line for each thread that runs tasks; after a fork or any trouble it is made anew.

    What cannot be stored here is stored in the ordinary way. Where the server refuses what a line
    needs, this process tries no other: it would be a connection a task.
    """

    def __init__(self, client: Callable[[], Any], script: Script) -> None:
        """client: gives the `redis.Redis` whose parameters the lines have; their connections are
        not counted in its pool.
        """
        self._client = client
        self._script = script
        self._of_thread = threading.local()
        self._refused_in: int | None = None

    def send(self, *arguments: Any) -> bool:
        """Run the script without asking for its answer.

        Returns: False when that could not be sent.
        """
        if self._refused_in == os.getpid():
            return False
        return self._without_trouble(lambda: self._line().send(arguments)) is not _TROUBLE

    def store(self, *arguments: Any) -> int | None:
        """Run the script behind all that this thread has sent.

        Returns: its answer; None when nothing was sent on a line that still stands, or when it
            broke.
        """
        line = self._own_line()
        if line is None:
            return None
        answer = self._without_trouble(lambda: line.store(arguments))
        return None if answer is _TROUBLE else answer

    def _own_line(self) -> _Line | None:
        line: _Line | None = getattr(self._of_thread, "line", None)
        return line if line is not None and line.pid == os.getpid() else None

    def _line(self) -> _Line:
        line = self._own_line()
        if line is not None and line.in_order:
            return line
        self._drop()
        pool = self._client().connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            line = self._of_thread.line = _Line(connection, self._script)
        except redis.exceptions.ResponseError as error:
            if not passes(error):
                self._refused_in = os.getpid()
                log.info("store_line_refused", error=str(error))
            raise
        return line

    def _without_trouble(self, exchange: Callable[[], Any]) -> Any:
        try:
            return exchange()
        except (redis.exceptions.RedisError, OSError) as error:
            self._drop()
            log.info("store_line_broke", error=str(error))
            return _TROUBLE
        except BaseException:
            # A time limit, for one, may strike anywhere: nobody knows what is sent or read by half.
            self._drop()
            raise

    def _drop(self) -> None:
        line = self._own_line()
        self._of_thread.line = None
        if line is not None:
            line.close()


_TROUBLE = object()
