"""Hive's commands to its nodes, carried by one Celery control command: `hive`, with the arguments
`command` and `arguments`.

Importing this module registers that command with Celery's worker. A command runs in the worker's
main thread, between two deliveries: it has to be over within milliseconds, and starts a thread for
anything longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.control import control_command

from hive.broker.control.mailbox import HIVE_COMMAND
from hive.errors import HiveError

Handler = Callable[[Any, dict[str, Any]], dict[str, Any]]

_commands: dict[str, Handler] = {}


def command(name: str) -> Callable[[Handler], Handler]:
    """Make a function the handler of one of Hive's commands.

    It gets the worker's control state (`.app`, `.hostname`, `.consumer`) and the command's
    arguments, and returns its reply, which JSON must hold: `{"ok": …}` or `{"error": "…"}`. A
    HiveError that it raises becomes such an error.
    """

    def register(handler: Handler) -> Handler:
        _commands[name] = handler
        return handler

    return register


@control_command(name=HIVE_COMMAND, args=[("command", str)], signature="COMMAND")
def hive(state: Any, command: Any = None, arguments: Any = None, **_: Any) -> dict[str, Any]:
    """Obey one of Hive's commands, for instance PING."""
    handler = _commands.get(command) if isinstance(command, str) else None
    if handler is None:
        known = ", ".join(sorted(_commands))
        return {"error": f"This node knows no command {command!r}; it knows: {known}."}
    if arguments is not None and not isinstance(arguments, dict):
        kind = type(arguments).__name__
        return {"error": f"The arguments of {command} must be a JSON object, not {kind}."}
    try:
        return handler(state, arguments or {})
    except HiveError as error:
        return {"error": error.message}


@command("PING")
def ping(_state: Any, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Say that this node hears."""
    return {"ok": "pong"}
