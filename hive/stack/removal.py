"""Removes what belongs to a stack, by its labels: neither its compose file nor its secrets are
needed for that, and both compose versions have labelled it alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from hive.stack.containers import PROJECT, Container, longest_grace
from hive.stack.engine import Engine

BEYOND_GRACE = 120.0
"""Seconds for the engine itself, when containers have used up their own time to stop."""


def remove_containers(engine: Engine, found: Sequence[Container], *, last: str) -> None:
    """Stop and remove containers, each in the time that it was given.

    last: the service that ends when all others have, since they still need it.
    Raises: HiveError.
    """
    for group in (
        [one for one in found if one.service != last],
        [one for one in found if one.service == last],
    ):
        if group:
            ids, within = [one.id for one in group], longest_grace(group) + BEYOND_GRACE
            doing = "The containers could not be ended"
            engine.docker("stop", *ids, doing=doing, within=within)
            engine.docker("rm", "--force", "--volumes", *ids, doing=doing)


def remove_networks(engine: Engine, stack: str) -> None:
    """Remove the stack's networks. Raises: HiveError."""
    if names := _labelled(engine, "network", stack):
        engine.docker("network", "rm", *names, doing="The networks could not be removed")


def volumes_of(engine: Engine, stack: str) -> list[str]:
    """The stack's volumes by name. Raises: HiveError."""
    return _labelled(engine, "volume", stack)


def remove_volumes(engine: Engine, stack: str) -> None:
    """Remove the stack's volumes. Raises: HiveError."""
    if names := volumes_of(engine, stack):
        engine.docker("volume", "rm", *names, doing="The volumes could not be removed")


def _labelled(engine: Engine, kind: str, stack: str) -> list[str]:
    """The engine's networks or volumes that compose has made for a stack."""
    listed = engine.docker(
        *(kind, "ls", "--quiet", "--filter", f"label={PROJECT}={stack}"),
        doing=f"The {kind}s cannot be listed",
    )
    return listed.out.split()
