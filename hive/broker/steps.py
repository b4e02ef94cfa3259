"""The channel's scripts: each a step that happens wholly or not at all (transport.md; the files in lua/ say what each keeps)."""

from __future__ import annotations

from hive.broker.scripts import Script


def _step(name: str) -> Script:
    return Script("hive.broker", name, include=("lib",))


PUBLISH = _step("publish")
RESERVE = _step("reserve")
ACKNOWLEDGE = _step("acknowledge")
ATTACH = _step("attach")
GIVE_BACK = _step("give_back")
RESTORE = _step("restore")
UNPLACE = _step("unplace")
ASSIGN = _step("assign")
RELEASE = _step("release")
PURGE = _step("purge")
MARK_EARLY = _step("mark_early")
REVOKE = _step("revoke")
LEASE = _step("lease")

ALL = (PUBLISH, RESERVE, ACKNOWLEDGE, ATTACH, GIVE_BACK, RESTORE, UNPLACE, ASSIGN, RELEASE, PURGE, MARK_EARLY, REVOKE, LEASE)
