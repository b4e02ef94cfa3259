"""What Flower has seen, kept in HIVE_HOME through restarts."""

# Flower ships no types.
# mypy: disable-error-code="misc"

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flower.events import Events

from hive.errors import SettingsError
from hive.logs import get_logger
from hive.settings import Settings

log = get_logger(__name__)


def history(settings: Settings) -> str:
    """The path of Flower's database, one for each broker; its folder is made.

    Raises: SettingsError when it cannot be made.
    """
    broker = f"{settings.redis_host}-{settings.redis_port}-{settings.redis_db}"
    folder = settings.hive_home / "flower"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unusable(folder, error) from None
    return str(folder / re.sub(r"[^\w.-]", "_", broker))


@contextmanager
def kept_alone(database: Path) -> Iterator[None]:
    """Keep every other `hive flower` from the database: each would overwrite what the other saw,
    and take a file that is just being written for a broken one.

    Raises: SettingsError when one uses it, or it cannot be written.
    """
    lock = database.with_name(f"{database.name}.lock")
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(database.parent, error) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SettingsError(
            f"Another hive flower keeps what it sees of this broker in {database.parent}; stop it, "
            "or give this one a HIVE_HOME of its own."
        ) from None
    try:
        yield
    finally:
        os.close(held)  # the file stays: whoever waits to open it would else lock one that is gone


def _unusable(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"Flower cannot keep what it sees in {folder}: {error.strerror}. Give HIVE_HOME a "
        "directory that it may write to."
    )


class KeptEvents(Events):
    """Flower's events; that they cannot be saved is one line in the log, and tried again."""

    def save_state(self) -> None:
        try:
            super().save_state()
        except Exception as error:  # noqa: BLE001 - Flower goes on, and can be ended
            log.error("flower_history_not_saved", database=self.db, reason=str(error))
