"""Whether the ports are free that a stack publishes: tried before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hive.stack.compose_file import Published, published
from hive.stack.containers import Container
from hive.stack.engine import Engine
from hive.stack.errors import StackError

_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_NO_ADDRESS = re.compile(r"cannot assign requested address", re.IGNORECASE)


def check_free(engine: Engine, resolved: Mapping[str, Any], before: Sequence[Container]) -> None:
    """Have the engine publish each port for a moment: it may be on another machine or in another
    network namespace, so that only itself can tell.

    before: the stack's containers, which may hold their ports.
    Raises: StackError for one that is taken.
    """
    held = {port for one in before if one.runs for port in one.ports}
    for one in published(resolved):
        if not _is_held(one, held):
            _try(engine, one, str(resolved["services"][one.service].get("image") or ""))


def _is_held(one: Published, held: set[str]) -> bool:
    # Docker shows a port of all addresses so.
    addresses = (one.address,) if one.address else ("0.0.0.0", "::")  # noqa: S104 - nobody binds it
    ending = f":{one.port}->{one.target}/{one.protocol}"
    return any(f"{address}{ending}" in held for address in addresses)


def _try(engine: Engine, one: Published, image: str) -> None:
    if not image:
        return
    said = engine.docker(
        *("run", "--rm", "--publish", one.option, "--network", "bridge"),
        *("--entrypoint", "true", image),
    )
    where = f"{one.address or 'all addresses'}, port {one.port}"
    if _TAKEN.search(said.err):
        hint = "HIVE_FLOWER_PORT in the stack's .env" if one.service == "flower" else "the port"
        raise StackError(
            f"What service {one.service} publishes is taken ({where}): end what listens there, or "
            f"set {hint} to a free one."
        )
    if _NO_ADDRESS.search(said.err):
        raise StackError(
            f"Service {one.service} cannot publish on {where}: the machine has no such address."
        )
