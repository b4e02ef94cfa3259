"""Zombies as people see them: what the watchdog wrote down when it gave a task back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask, skip

REMEMBERED_SECONDS = 3600


class ZombieTask(str):
    """A task's id, which knows why the task was taken for a zombie.

    node: which had it. reason: why it was given back. started_at: when that node took it, in local
    time and without a zone, so that `datetime.now() - zombie.started_at` is how long ago; where its
    row does not tell, when it was found.
    """

    __slots__ = ("node", "reason", "started_at")
    node: str
    reason: str
    started_at: datetime

    def __new__(cls, task_id: str, node: str, reason: str, started_at: datetime) -> ZombieTask:
        made = super().__new__(cls, task_id)
        made.node, made.reason, made.started_at = node, reason, started_at
        return made

    @property
    def task_id(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return (
            f"ZombieTask({self.task_id!r}, node={self.node!r}, reason={self.reason!r}, "
            f"started_at={self.started_at!r})"
        )

    def __getnewargs__(self) -> tuple[str, str, str, datetime]:  # type: ignore[override]
        return self.task_id, self.node, self.reason, self.started_at


class ZombieRow(BaseModel):
    """One row of `venom:zombies`. Times are in unix seconds by the broker's and the watchdog's
    clock; a release before 0.2 wrote no `started`.
    """

    model_config = ConfigDict(extra="ignore")

    node: str = ""
    reason: str = ""
    at: float | None = Field(None, ge=0, lt=1e11)
    started: float | None = Field(None, ge=0, lt=1e11)


def note_zombies(client: BrokerClient, rows: Iterable[tuple[str, ZombieRow]]) -> None:
    """Write zombies down by their task ids. Raises: redis errors."""
    key = client.key("zombies")
    client.redis.hset(key, mapping={task_id: row.model_dump_json() for task_id, row in rows})
    client.redis.expire(key, REMEMBERED_SECONDS)


def read_zombies(client: BrokerClient) -> list[ZombieTask]:
    """All that were written down in the last hour, by their ids. Raises: redis errors."""
    key = client.key("zombies")
    found: dict[bytes, bytes] = ask(client, client.redis.hgetall, key) or {}
    return sorted(_zombie(client, key, *pair) for pair in found.items())


def _zombie(client: BrokerClient, key: str, raw_id: bytes, raw: bytes) -> ZombieTask:
    task_id = raw_id.decode(errors="replace")
    try:
        row = ZombieRow.model_validate_json(raw)
    except ValidationError as error:
        skip(client, key, task_id, error.errors()[0]["msg"])
        row = ZombieRow()
    since = next((at for at in (row.started, row.at) if at is not None), time.time())
    return ZombieTask(task_id, row.node, row.reason, datetime.fromtimestamp(since))  # noqa: DTZ006
