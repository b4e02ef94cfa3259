"""`hive health`: whether the nexus and the spores of this machine, or this container, are well.

For probes, which ask every few seconds: it reads what those processes have left and imports neither
Celery nor the settings' models, which would cost more than all the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import click

from hive.cli.output import json_option, note, write_json
from hive.errors import HiveError, InvalidInputError
from hive.process.vitals import Vitals, read


class NothingThereError(HiveError):
    """Neither a supervisor nor a nexus has left anything to read."""

    exit_code = 2


@click.command("health", short_help="Tell whether what runs here is well; asks nobody.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--ready", is_flag=True, help="Fail also while it starts or drains.")
@json_option
def health(*, name: str | None, ready: bool, as_json: bool) -> int:
    """Tell whether the spores and the nexus of this machine, or of this container, are well. NAME
    is a node's, with or without its host, or `nexus`; without it all of them have to be.

    It reads what they leave in HIVE_HOME, and asks neither them nor the broker: one whose broker is
    away is well, and waits. Exit codes: 0 well, 1 not, with the reason, 2 nothing of that name runs
    here.

    \b
    Example:
      hive health
      hive health spore-1 --ready
    """
    homes = _homes()
    found = [vitals for home in homes for vitals in _read(home)]
    found = [vitals for vitals in found if name in (None, vitals.name, vitals.node)]
    if not found:
        where = " and ".join(str(home) for home in homes[:2])
        what = "no `hive spore` and no `hive nexus`" if name is None else f"nothing called {name!r}"
        raise NothingThereError(
            f"There is {what} in {where}; start it, or set HIVE_HOME to the directory that it uses."
        )
    sound = [vitals.ready if ready else vitals.healthy for vitals in found]
    if as_json:
        write_json(json.dumps([_told(vitals) for vitals in found]))
    for vitals, well in zip(found, sound, strict=True):
        if not well:
            note(f"hive: {vitals.sentence}")
        elif not as_json:
            click.echo(vitals.sentence)
    return 0 if all(sound) else 1


def _told(vitals: Vitals) -> dict[str, object]:
    return {
        "kind": vitals.kind,
        "node_id": vitals.node,
        "pid": vitals.pid,
        "state": vitals.state,
        "detail": vitals.detail,
        "healthy": vitals.healthy,
        "ready": vitals.ready,
    }


def _read(home: Path) -> list[Vitals]:
    try:
        return read(home)
    except OSError as error:
        raise HiveError(
            f"{error.filename} cannot be read: {error.strerror}. Ask as the user that Hive runs as."
        ) from None


def _homes() -> list[Path]:
    """HIVE_HOME, as the settings find it; of a hive that `hive up` started, those that it gave to
    its nexus and its spores.
    """
    named = os.environ.get("HIVE_ENV_FILE")
    home = os.environ.get("HIVE_HOME") or _from_files((named, ".env"))
    if home:
        return [Path(home).expanduser()]
    state = Path(named).parent if named else None
    if state is not None and (state / "nexus").is_dir() and (state / "spores").is_dir():
        return [state / "nexus", *sorted((state / "spores").iterdir())]
    return [Path("~/.hive").expanduser()]


def _from_files(files: Iterable[str | None]) -> str | None:
    existing = [name for name in files if name and Path(name).is_file()]
    if not existing:
        return None
    from dotenv import dotenv_values

    for name in existing:
        try:
            found = {key.upper(): value for key, value in dotenv_values(name).items()}
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name} cannot be read: {error}.") from None
        if found.get("HIVE_HOME"):
            return found["HIVE_HOME"]
    return None
