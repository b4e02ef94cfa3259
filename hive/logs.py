"""Structured logging: one event a line, a stable event name first, ids as fields.

structlog writes through the standard library's loggers, so an application's own logging
configuration stays in charge. It is imported at the first line that is logged, since most programs
that import a module of Hive's log nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog


def log_to_stderr(level: int = logging.INFO) -> None:
    """Have one of Hive's own processes write its log to stderr.

    The processes of an application configure their logging themselves.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")


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
