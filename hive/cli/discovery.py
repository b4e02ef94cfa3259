"""The hive that runs in the working directory, found without being named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

FOUND = Path(".hive", "hive.env")
"""Where `hive up` writes, by default, how its hive is found; it is there while that hive runs."""

ELSEWHERE = frozenset({"up", "down", "demo", "stack", "deploy"})
"""Commands that are told otherwise which hive they are about."""


def discover(arguments: Sequence[str]) -> None:
    """Let this process use the hive of `./.hive`, and say so on stderr, unless a broker was named.

    arguments: the command line, whose first word is the command.

    A broker is named by HIVE_ENV_FILE, were it empty, or by any REDIS_* variable, in the
    environment or in `.env`; and by Celery's own CELERY_BROKER_URL.
    """
    if not arguments or arguments[0] in ELSEWHERE or _asks_for_help(arguments):
        return
    # In this order: of a `.hive` that is another user's, is_file() would raise PermissionError.
    if not os.access(FOUND, os.R_OK) or not FOUND.is_file():
        return
    if "CELERY_BROKER_URL" in os.environ or _name_a_broker(os.environ):
        return
    if not _name_a_broker(_names_in_dotenv()):
        os.environ["HIVE_ENV_FILE"] = str(FOUND.absolute())
        click.echo(f"using {FOUND} (set HIVE_ENV_FILE to choose another hive)", err=True)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return not {"-h", "--help"}.isdisjoint(arguments[:end])


def _name_a_broker(names: Iterable[str]) -> bool:
    return any(
        name.upper() == "HIVE_ENV_FILE" or name.upper().startswith("REDIS_") for name in names
    )


def _names_in_dotenv() -> Iterable[str]:
    """What `.env` sets, as the settings will read it; one that cannot be read is theirs to tell."""
    dotenv = Path(".env")
    if not dotenv.is_file():
        return ()
    from pydantic_settings import DotEnvSettingsSource

    from hive.settings import Settings

    try:
        return DotEnvSettingsSource(Settings, env_file=dotenv).env_vars
    except (OSError, UnicodeDecodeError):
        return ("HIVE_ENV_FILE",)
