"""The secrets of a stack: one list, from which they are made at its first start, and checked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from hive.errors import SettingsError
from hive.settings import SHORTEST_PASSWORD


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret by its variable."""

    name: str
    of: str
    """Whose it is, for people."""


SECRETS = (
    Secret("REDIS_PASSWORD", "the broker's user hive: nexus, spores, Flower and your programs"),
    Secret("REDIS_ADMIN_PASSWORD", "the broker's user admin, for people"),
    Secret("HIVE_FLOWER_PASSWORD", "who looks at Flower"),
)


def make() -> str:
    """A new secret: 43 characters that need no quotes anywhere."""
    return secrets.token_urlsafe(32)


def needed(compose_file: str) -> list[Secret]:
    """Those that a compose file names."""
    return [secret for secret in SECRETS if secret.name in compose_file]


def absent(wanted: list[Secret], values: Mapping[str, str | None]) -> list[Secret]:
    """Those of which the values say nothing, so that they can be made."""
    return [secret for secret in wanted if secret.name not in values]


def check(wanted: list[Secret], values: Mapping[str, str | None], where: str) -> None:
    """Raise SettingsError where one of them is missing or weak; the message shows none.

    where: the file of the values.
    """
    faults = [
        f"{secret.name} has {len(values.get(secret.name) or '')} characters"
        for secret in wanted
        if len(values.get(secret.name) or "") < SHORTEST_PASSWORD
    ]
    if faults:
        raise SettingsError(
            f"In {where} {' and '.join(faults)}, and needs at least {SHORTEST_PASSWORD}: write a "
            "longer one, for instance what `openssl rand -hex 32` prints, or remove the line, and "
            "one is made."
        )
