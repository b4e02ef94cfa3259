"""Lua scripts in files of their own.

They are read once, called by their SHA, and loaded again when the server has forgotten them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import redis

ALLOW_OOM = "#!lua flags=allow-oom\n"
"""First line of a script that the server runs although it is beyond its `maxmemory`."""


class Script:
    """One Lua file of a package, after the files it builds on.

    A file is `<package>/lua/<name>.lua`; `include` names files, as `package:name`, that are put in
    front of it, so that scripts share functions. The server runs each call as one atomic step.

    refusable: it brings new work, so a server without memory refuses it, before its first write.
        All others run on: they finish what was accepted, which is what frees memory.
    """

    def __init__(
        self, package: str, name: str, include: Sequence[str] = (), *, refusable: bool = False
    ) -> None:
        self.name = name
        text = "\n".join(map(_read, (*include, f"{package}:{name}")))
        self.text = text if refusable else ALLOW_OOM + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Any, keys: Sequence[Any] = (), args: Iterable[Any] = ()) -> Any:
        """Run the script on `client`: one round trip, or two when the server did not know it."""
        arguments = (len(keys), *keys, *args)
        try:
            return client.execute_command("EVALSHA", self.sha, *arguments)
        except redis.exceptions.NoScriptError:
            return client.execute_command("EVAL", self.text, *arguments)

    def on_connection(
        self, connection: Any, keys: Sequence[Any] = (), args: Iterable[Any] = ()
    ) -> Any:
        """Run the script on one connection of redis-py's, which tries nothing twice by itself."""
        arguments = (len(keys), *keys, *args)
        # No PING goes before it: that would be one more round trip, and the missing answer tells of
        # a silent connection as well.
        connection.send_command("EVALSHA", self.sha, *arguments, check_health=False)
        try:
            return connection.read_response()
        except redis.exceptions.NoScriptError:
            connection.send_command("EVAL", self.text, *arguments)
            return connection.read_response()

    def load(self, client: Any) -> None:
        client.script_load(self.text)


def _read(part: str) -> str:
    package, _, name = part.partition(":")
    return (files(package) / "lua" / f"{name}.lua").read_text("utf-8")
