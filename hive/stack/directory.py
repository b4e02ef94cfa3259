"""The directory of a stack: its compose file, its config/, its secrets, and what of it people have
written themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from hive.errors import HiveError, InvalidInputError
from hive.stack import secrets
from hive.stack.errors import StackError

DEFAULT_NAME = "hive"
COMPOSE_FILE = "docker-compose.yml"
OVERRIDE_FILE = "docker-compose.override.yml"
"""Compose's own name for what somebody puts beside it, to change parts of it."""

# What compose takes for a project; it has no dot and no slash, and so leads nowhere else.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HEAD = """\
# Settings of this stack, read at each `hive stack up`; docs/settings.md has them all. The secrets
# were made at its first start. Who can read this file can run anything on its nodes.
"""


def packaged() -> Traversable:
    """The files of the package, laid out as at the top of the repository."""
    return resources.files("hive.stack") / "files"


def packaged_compose() -> str:
    """The compose file of Hive, the bytes of docker-compose.yml."""
    return (packaged() / COMPOSE_FILE).read_bytes().decode()


class StackDirectory:
    """One stack's directory.

    name: of the stack, and of its compose project.
    Raises: InvalidInputError for a name that compose would not take.
    """

    def __init__(self, stacks: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"A stack cannot be called {name!r}: a name is up to 63 small letters, digits, "
                "hyphens and underscores, and begins with a letter or digit."
            )
        self.name = name
        self.path = stacks.expanduser().absolute().resolve() / name
        self.compose_file = self.path / COMPOSE_FILE
        self.env_file = self.path / ".env"
        self._record_file = self.path / "stack.json"

    def exists(self) -> bool:
        with self.errors():
            return self.compose_file.is_file()

    def text(self) -> str:
        """The stack's compose file. Raises: StackError where it cannot be read."""
        with self.errors():
            return self.compose_file.read_text(encoding="utf-8")

    def has_own_file(self) -> bool:
        """Whether the compose file is one that somebody gave, and not Hive's."""
        return bool(self._record().get("own"))

    def options(self, compose_file: Path | None = None) -> list[str]:
        """The options by which compose works on this stack."""
        override = self.path / OVERRIDE_FILE
        return [
            *("--project-name", self.name),
            *("--project-directory", str(self.path)),
            *("--env-file", str(self.env_file)),
            *("--file", str(compose_file or self.compose_file)),
            *(("--file", str(override)) if override.is_file() else ()),
        ]

    def values(self) -> dict[str, str | None]:
        """What .env says; nothing where it is not there."""
        with self.errors():
            if not self.env_file.exists():
                return {}
            self.env_file.chmod(0o600)
            return dict(dotenv_values(self.env_file, interpolate=False, encoding="utf-8"))

    @contextlib.contextmanager
    def prepared(self, compose_file: str, *, own: bool) -> Iterator[Path]:
        """Make the directory with everything that compose reads, the compose file as a candidate.

        It becomes the stack's file when the block ends well; otherwise the one before stays.

        Yields: the candidate.
        Raises: SettingsError for a weak secret; StackError where the directory cannot be used.
        """
        candidate = self.path / f"{COMPOSE_FILE}.new"
        with self.errors():
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._keep_secrets(compose_file)
            self._write_config()
            candidate.write_text(compose_file, encoding="utf-8")
        try:
            yield candidate
            with self.errors():
                candidate.replace(self.compose_file)
                self._write_record({**self._record(), "own": own})
        finally:
            candidate.unlink(missing_ok=True)

    def edited(self) -> list[str]:
        """The files of config/ that somebody has changed; they are kept as they are."""
        written = self._record().get("written", {})
        return [
            name
            for name, ours in self._packaged_config().items()
            if (there := _bytes(self.path / name)) not in (None, ours)
            and hashlib.sha256(there or b"").hexdigest() != written.get(name)
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing this stack meanwhile; the kernel lets go at this one's end.

        Raises: StackError when somebody else is at it.
        """
        with self.errors():
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise StackError(
                f"Another `hive stack` is changing the stack {self.name}: wait until it has ended."
            ) from None
        finally:
            os.close(lock)
            with contextlib.suppress(OSError):
                self.path.rmdir()  # where a refused start has left nothing in it

    def remove(self) -> None:
        """Remove what Hive has written here, and the directory if nothing else is in it."""
        with self.errors():
            for name in self._packaged_config():
                (self.path / name).unlink(missing_ok=True)
            for path in (self.compose_file, self.env_file, self._record_file):
                path.unlink(missing_ok=True)
            for directory in (self.path / "config", self.path):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the operating system's errors about the directory into sentences."""
        try:
            yield
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(
                f"The stack's directory {self.path} cannot be used ({error}): make room or rights "
                "there, or set HIVE_HOME to a directory that you may write to."
            ) from None

    def _keep_secrets(self, compose_file: str) -> None:
        wanted = secrets.needed(compose_file)
        values = self.values()
        lines = [
            f"# Of {secret.of}.\n{secret.name}={secrets.make()}\n"
            for secret in secrets.absent(wanted, values)
        ]
        if lines or not self.env_file.exists():
            before = self.env_file.read_text() if self.env_file.exists() else _HEAD
            if not before.endswith("\n"):
                before += "\n"
            _write(self.env_file, (before + "".join(lines)).encode(), 0o600)
            values = self.values()
        secrets.check(wanted, values, str(self.env_file))

    def _packaged_config(self) -> dict[str, bytes]:
        """The files of config/ by their path in the stack."""
        directory = packaged() / "config"
        return {
            f"config/{file.name}": file.read_bytes()
            for file in sorted(directory.iterdir(), key=lambda file: file.name)
            if file.is_file()
        }

    def _write_config(self) -> None:
        """Write config/, readable by the users that the containers run as."""
        (self.path / "config").mkdir(exist_ok=True, mode=0o755)
        kept = set(self.edited())
        record = self._record()
        written = dict(record.get("written", {}))
        for name, ours in self._packaged_config().items():
            if name not in kept:
                _write(self.path / name, ours, 0o755 if name.endswith(".sh") else 0o644)
                written[name] = hashlib.sha256(ours).hexdigest()
        self._write_record({**record, "written": written})

    def _record(self) -> dict[str, Any]:
        try:
            read = json.loads(self._record_file.read_text())
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    def _write_record(self, record: Mapping[str, object]) -> None:
        _write(self._record_file, json.dumps(record, indent=1).encode(), 0o644)


def stacks_in(directory: Path) -> list[str]:
    """The names of the stacks that have a directory there."""
    try:
        return sorted(
            path.name
            for path in directory.iterdir()
            if _NAME.fullmatch(path.name) and (path / COMPOSE_FILE).is_file()
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HiveError(f"The stacks in {directory} cannot be listed ({error}).") from None


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all; nobody reads it before its rights are set."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
    fresh.replace(path)
