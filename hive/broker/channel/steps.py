"""The channel's scripts: each a step that happens wholly or not at all.

The rules that they keep are in docs/channel.md; each file in lua/ says what it keeps.
"""

from __future__ import annotations

from hive.broker.link.scripts import Script

LIBRARY = "hive.broker.channel:lib"
"""What scripts that touch messages include, also those of other rooms."""


def _step(name: str, *, also: tuple[str, ...] = (), refusable: bool = False) -> Script:
    return Script("hive.broker.channel", name, include=(LIBRARY, *also), refusable=refusable)


PUBLISH = _step("publish", refusable=True)
FOLLOW_UP = _step("publish")
"""The same for what accepted work sends: a retry or a callback that were refused would be lost."""
RESERVE = _step("reserve")
ACKNOWLEDGE = _step("acknowledge")
ATTACH = _step("attach", also=("hive.broker.nodes:hearing",))
GIVE_BACK = _step("give_back")
POSTPONE = _step("postpone")
CALL_UP = _step("call_up")
RESTORE = _step("restore")
LONG_ABSENT = _step("long_absent")
UNPLACE = _step("unplace")
ASSIGN = _step("assign")
RELEASE = _step("release")
PURGE = _step("purge")
MARK_EARLY = _step("mark_early")
REVOKE = _step("revoke")
BIND = Script("hive.broker.channel", "bind")
