"""Structured logging: one event a line, a stable event name first, ids as fields.

structlog writes through the standard library's loggers, so an application's own logging
configuration stays in charge. It is imported at the first line that is logged, since most programs
that import a module of Hive's log nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog


def log_to_stderr(level: int = logging.INFO) -> None:
    """Have one of Hive's own processes write its log to stderr.

    The processes of an application configure their logging themselves.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    tell_levels_to_journal(logging.getLogger())


def tell_levels_to_journal(logger: logging.Logger, **_: Any) -> None:
    """Let the lines of a logger's handlers carry their level where systemd's journal reads them
    (sd-daemon(3)), so that `journalctl -p warning` finds them. A receiver of Celery's signals.
    """
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if _is_journal(stream) and not isinstance(handler.formatter, _WithLevel):
            handler.setFormatter(_WithLevel(handler.formatter or logging.Formatter()))


class _WithLevel(logging.Formatter):
    """Another formatter's lines, each with its level as the journal reads it."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        mark = _mark(record.levelno)
        return "\n".join(f"{mark}{line}" for line in text.splitlines())


def journal_mark(level: int) -> str:
    """What a line on stderr begins with to have its level in the journal; elsewhere nothing."""
    return _mark(level) if _is_journal(sys.stderr) else ""


def _mark(level: int) -> str:
    return f"<{next((to for least, to in _LEVELS if level >= least), 7)}>"


_LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""From which level of Python on it is which one of syslog."""


def _is_journal(stream: Any) -> bool:
    """Whether a stream leads to the journal: JOURNAL_STREAM holds its device and inode, since a
    program's output may have been redirected since.
    """
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        found = os.fstat((stream or sys.stderr).fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a structured logger.

    `log.info("node_dead", node_id=…)` prints `event=node_dead node_id=…`.
    """
    return cast("structlog.stdlib.BoundLogger", _LateLogger(name))


class _LateLogger:
    """structlog's logger of that name, made when something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger: Any = None

    def __getattr__(self, attribute: str) -> Any:
        if self._logger is None:
            self._logger = _made_logger(self._name)
        return getattr(self._logger, attribute)


def _made_logger(name: str) -> Any:
    import structlog

    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            _plain_values,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _plain_values(_logger: Any, _method: str, event: Any) -> Any:
    """Make values fit into one line of logfmt, which allows no newline inside a value.

    A traceback is left to the standard library's formatter, which prints it below the line.
    """
    event.pop("exc_info", None)
    return {
        key: value.replace("\n", "\\n") if isinstance(value, str) else value
        for key, value in event.items()
    }
