"""Hive's commands to its nodes, carried by one Celery control command: `hive`, with the arguments
`command` and `arguments`.

Importing this module registers that command with Celery's worker. A command runs in the worker's
main thread, between two deliveries: it has to be over within milliseconds, and starts a thread for
anything longer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from celery.worker.control import control_command

from hive.broker.control.mailbox import HIVE_COMMAND
from hive.errors import HiveError
from hive.logs import get_logger

log = get_logger(__name__)

Handler = Callable[[Any, dict[str, Any]], dict[str, Any]]

_commands: dict[str, tuple[Handler, Collection[str] | None]] = {}


def command(name: str, *, arguments: Collection[str] | None = None) -> Callable[[Handler], Handler]:
    """Make a function the handler of one of Hive's commands.

    arguments: the names of those that it takes; others, of a later release say, are refused in a
        sentence. None: any, and the handler looks at them itself.

    It gets the worker's control state (`.app`, `.hostname`, `.consumer`) and the command's
    arguments, and returns its reply, which JSON must hold: `{"ok": …}` or `{"error": "…"}`. What it
    raises becomes such an error; what is no HiveError is logged as well.
    """

    def register(handler: Handler) -> Handler:
        _commands[name] = handler, arguments
        return handler

    return register


@control_command(name=HIVE_COMMAND, args=[("command", str)], signature="COMMAND")
def hive(state: Any, command: Any = None, arguments: Any = None, **_: Any) -> dict[str, Any]:
    """Obey one of Hive's commands, for instance PING."""
    if not isinstance(command, str) or command not in _commands:
        known = ", ".join(sorted(_commands))
        return {"error": f"This node knows no command {command!r}; it knows: {known}."}
    if arguments is not None and not isinstance(arguments, dict):
        kind = type(arguments).__name__
        return {"error": f"The arguments of {command} must be a JSON object, not {kind}."}
    handler, takes = _commands[command]
    given = arguments or {}
    unknown = sorted(set(given) - set(given if takes is None else takes))
    if unknown:
        known = ", ".join(sorted(takes or ())) or "none"
        told = ", ".join(map(repr, unknown))
        return {"error": f"This node knows no argument {told} of {command}; it knows: {known}."}
    try:
        return handler(state, given)
    except HiveError as error:
        return {"error": error.message}
    except Exception as error:
        log.exception("command_failed", command=command)
        return {"error": f"{command} failed on this node ({type(error).__name__}: {error})."}


@command("PING")
def ping(_state: Any, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Say that this node hears."""
    return {"ok": "pong"}
