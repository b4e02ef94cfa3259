"""`/health`: whether this nexus and its cluster do their work, for people and for monitoring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

import redis
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hive.broker.ledger.account import Ledger
from hive.broker.ledger.aside import naming_its_key, put_aside
from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import passes, said
from hive.broker.link.unreadable import ask, skip
from hive.errors import StoredFormatError
from hive.foreman.watch.duty import duty_states
from hive.foreman.watch.watchdog import LEASE_NAME
from hive.json_text import sayable
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
    put_aside: int | None = None
    """How many keys and rows were put aside, since nobody can read them."""
    last_put_aside: str | None = None
    """The last of them, in a sentence."""
    refused: str | None = None
    """What the broker, which is there, refuses to tell, since a key is in the way; the fields that
    it would have filled are None."""


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
    known: dict[str, Any] = {}
    refused, served = list[str](), True
    for what, look in _LOOKS.items():
        try:
            known |= look(nexus)
        except StoredFormatError as error:
            served = False
            refused.append(error.message)
        except redis.exceptions.RedisError as error:
            # What it refuses about one key is no outage.
            if not isinstance(error, redis.exceptions.ResponseError) or passes(error):
                return Health(
                    status="degraded",
                    version=VERSION,
                    broker_reachable=False,
                    watchdog_last_tick=tick,
                )
            refused.append(f"{what}: {said(naming_its_key(nexus.probe, error))}")
    return Health(
        status="ok" if ticking and served else "degraded",
        version=VERSION,
        broker_reachable=True,
        watchdog_last_tick=tick,
        refused=sayable("; ".join(refused)) or None,
        **known,
    )


def _nodes(nexus: Nexus) -> dict[str, Any]:
    nodes = nexus.table.read().values()
    return {"nodes_online": sum(node.online for node in nodes), "nodes_total": len(nodes)}


def _alarm(nexus: Nexus) -> dict[str, Any]:
    alarm = Ledger(nexus.probe).alarm()
    return {"alarm": alarm.sentence if alarm else None}


def _duties(nexus: Nexus) -> dict[str, Any]:
    states = duty_states(nexus.probe)
    return {"failing_duties": [state.sentence for state in states if state.error]}


def _aside(nexus: Nexus) -> dict[str, Any]:
    aside = put_aside(nexus.probe)
    return {"put_aside": len(aside), "last_put_aside": aside[0].sentence if aside else None}


_LOOKS: dict[str, Callable[[Nexus], dict[str, Any]]] = {
    "nodes": _nodes,
    "lease": lambda nexus: {"lease_holder": _lease_holder(nexus.probe)},
    "alarm": _alarm,
    "duties": _duties,
    "aside": _aside,
}
"""Each part of the answer by itself: one that the broker refuses hides no other."""


def _lease_holder(probe: BrokerClient) -> str | None:
    """Who leads the watchdogs now; None when nobody does."""
    now, key = probe.now_ms(), probe.key("lease", LEASE_NAME)
    holder, until = ask(probe, probe.redis.hmget, key, "holder", "until") or (None, None)
    try:
        return holder.decode() if holder and int(until or 0) > now else None
    except ValueError as error:
        skip(probe, key, "", error)
        return None
