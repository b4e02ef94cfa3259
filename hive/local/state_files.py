"""Files under a hive's state directory: secrets that only their owner reads, and what to say when
the directory cannot be used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from hive.errors import StateDirectoryError

LOG_LINES = 12


def kept_password(path: Path) -> str:
    """Read the password in that file, or make one and write it.

    A file that was cut short by a full disk counts as none.
    """
    with directory_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = path.read_text().strip() if path.exists() else ""
        if len(known) >= 32:
            return known
        made = secrets.token_urlsafe(32)
        write_secret(path, made + "\n")
    return made


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def last_lines(log: Path) -> str:
    """The end of a process's log, for the message of an error.

    Where Hive's command line gave the reason in a line, it is that line alone.
    """
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()][-LOG_LINES:]
    except OSError:
        lines = []
    reasons = [line.removeprefix("hive: ") for line in lines if line.startswith("hive: ")]
    said = reasons[-1:] or [line for line in lines if line]
    return f"{log} ends with: {' | '.join(said) or '(nothing)'}"


@contextlib.contextmanager
def directory_errors(directory: Path) -> Iterator[None]:
    """Turn the operating system's errors about a state directory into StateDirectoryError."""
    try:
        yield
    except OSError as error:
        raise StateDirectoryError(
            f"{directory} cannot be used ({error}). Give --state a directory that you may write to."
        ) from error
