"""What is asked of systemd, and of the system's list of users."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hive.errors import HiveError

USER = "hive"
HOME = "/var/lib/hive"
RUNS_SYSTEMD = Path("/run/systemd/system")
"""A folder that is there where systemd manages the machine: sd_booted(3)."""


def require_systemd() -> None:
    """Raises: HiveError where nothing can be installed."""
    if not RUNS_SYSTEMD.is_dir() or shutil.which("systemctl") is None:
        raise HiveError(
            "systemd does not run this machine. In a container, or under another service manager, "
            "have that one start `hive nexus` and `hive spore`."
        )
    if os.geteuid() != 0:
        raise HiveError(
            "hive deploy systemd needs root, since it writes to /etc: use sudo, or --dry-run to "
            "see what it would do."
        )


def has_user() -> bool:
    """Whether the user of the services is there, whoever made it."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def make_user() -> None:
    """The user of the services: no password, no shell, no home but what systemd makes for it."""
    _run("systemd-sysusers", "--inline", f'u {USER} - "Hive" {HOME}')


def users_group() -> int:
    """The id of the user's group: the one of its name, else its first."""
    try:
        return grp.getgrnam(USER).gr_gid
    except KeyError:
        return pwd.getpwnam(USER).pw_gid


def reload() -> None:
    """Let systemd read the units anew."""
    _run("systemctl", "daemon-reload")


def enable(units: Iterable[str]) -> None:
    """They start at boot; nothing starts now."""
    _run("systemctl", "enable", *units)


def disable(units: Iterable[str]) -> None:
    """They start at boot no more; what runs goes on."""
    _run("systemctl", "disable", *units)


def stop(units: Iterable[str]) -> None:
    """Returns when they have ended, which takes as long as the spores' tasks may."""
    _run("systemctl", "stop", *units)


def forget_failures(units: Iterable[str]) -> None:
    """Units that are gone, and had failed, are listed no more."""
    with contextlib.suppress(HiveError):  # those that had not failed are not listed as it is
        _run("systemctl", "reset-failed", *units)


def running() -> list[str]:
    """Hive's units that systemd runs, or starts again and again."""
    asked = ("systemctl", "list-units", "--plain", "--no-legend", "--all", "hive.target")
    told = _run(*asked, "hive-nexus.service", "hive-flower.service", "hive-spore@*.service")
    rows = [line.split() for line in told.splitlines()]
    return [row[0] for row in rows if len(row) > 2 and row[2] not in ("inactive", "failed")]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
        )
    except OSError as error:
        raise HiveError(f"{command[0]} cannot be run: {error.strerror}.") from None
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or f"code {done.returncode}").split())
        raise HiveError(f"{' '.join(command[:2])} failed: {said}")
    return done.stdout
