"""`/health`: whether this nexus and its cluster do their work, for people and for monitoring."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import Literal

import redis
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hive.broker.ledger.account import Ledger
from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask, skip
from hive.errors import StoredFormatError
from hive.foreman.watch.duty import duty_states
from hive.foreman.watch.watchdog import LEASE_NAME
from hive.nexus.context import Nexus, nexus_of

TICK_OVERDUE = 10.0
VERSION = version("venom-hive")


class Health(BaseModel):
    """The answer of `/health`; what only the broker could tell is None while it does not answer.

    Times are unix seconds.
    """

    status: Literal["ok", "degraded"]
    version: str
    broker_reachable: bool
    nodes_online: int | None = None
    nodes_total: int | None = None
    lease_holder: str | None = None
    watchdog_last_tick: float | None = None
    failing_duties: list[str] | None = None
    """The duties of the leading watchdog that fail, a sentence each."""
    alarm: str | None = None
    """Why the account of all messages fails; None while it balances. The nexus is not degraded."""


async def health(request: Request) -> JSONResponse:
    """Answer 200, or 503 while the broker or the watchdog is away."""
    nexus = nexus_of(request)
    found = await asyncio.get_running_loop().run_in_executor(nexus.threads, _examine, nexus)
    return JSONResponse(
        found.model_dump(),
        status_code=200 if found.status == "ok" else 503,
        headers={"Cache-Control": "no-store"},
    )


ROUTES = (Route("/health", health),)


def _examine(nexus: Nexus) -> Health:
    tick = nexus.watchdog.last_tick
    ticking = tick is not None and time.time() - tick < TICK_OVERDUE
    try:
        nodes = nexus.table.read().values()
        holder = _lease_holder(nexus.probe)
        alarm = Ledger(nexus.probe).alarm()
        failing = [state.sentence for state in duty_states(nexus.probe) if state.error]
    except redis.exceptions.RedisError:
        return Health(
            status="degraded", version=VERSION, broker_reachable=False, watchdog_last_tick=tick
        )
    except StoredFormatError as error:
        return Health(
            status="degraded",
            version=VERSION,
            broker_reachable=True,
            watchdog_last_tick=tick,
            failing_duties=[error.message],
        )
    return Health(
        status="ok" if ticking else "degraded",
        version=VERSION,
        broker_reachable=True,
        nodes_online=sum(node.online for node in nodes),
        nodes_total=len(nodes),
        lease_holder=holder,
        watchdog_last_tick=tick,
        alarm=alarm.sentence if alarm else None,
        failing_duties=failing,
    )


def _lease_holder(probe: BrokerClient) -> str | None:
    """Who leads the watchdogs now; None when nobody does."""
    now, key = probe.now_ms(), probe.key("lease", LEASE_NAME)
    holder, until = ask(probe, probe.redis.hmget, key, "holder", "until") or (None, None)
    try:
        return holder.decode() if holder and int(until or 0) > now else None
    except ValueError as error:
        skip(probe, key, "", error)
        return None
