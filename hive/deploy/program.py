"""Which `hive` the services run, and whether they can."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from hive.errors import HiveError

NOBODY = 65534
HIDDEN = {
    Path("/home"): "ProtectHome",
    Path("/root"): "ProtectHome",
    Path("/run/user"): "ProtectHome",
    Path("/tmp"): "PrivateTmp",  # noqa: S108 - no file is made there
    Path("/var/tmp"): "PrivateTmp",  # noqa: S108
}
"""What the services do not see, and the line of their units that hides it."""
PLAIN = re.compile(r"[A-Za-z0-9/._+@-]+")
INSTEAD = (
    "Install Hive where all users may run it, for instance with `python3 -m venv /opt/hive`, and "
    "use the hive command that is in there"
)


def this_program() -> Path:
    """The command `hive` that this process is.

    Raises: HiveError where it is none that services can run.
    """
    told = Path(sys.argv[0])
    program = told if told.name == "hive" else Path(sysconfig.get_path("scripts"), "hive")
    return usable(program.absolute(), _parts())


def usable(program: Path, parts: tuple[Path, ...]) -> Path:
    """The program, if the services see it and each of its parts, and may run it.

    Raises: HiveError.
    """
    if not program.is_file():
        raise HiveError(f"There is no {program}, which the services would run. {INSTEAD}.")
    for part in (program, program.resolve(), *parts):
        hidden = next((folder for folder in HIDDEN if part.is_relative_to(folder)), None)
        if hidden is not None:
            raise HiveError(
                f"The services cannot run {program}: {part} is under {hidden}, which their "
                f"{HIDDEN[hidden]} hides. {INSTEAD}."
            )
    if PLAIN.fullmatch(str(program)) is None:
        raise HiveError(
            f"The services cannot run {str(program)!r}: a unit's path has only letters, digits and "
            f"/ . _ + @ -. {INSTEAD}."
        )
    if os.geteuid() == 0:
        _try(program)
    return program


def _parts() -> tuple[Path, ...]:
    """Where this process' interpreter, its libraries and Hive's package are."""
    interpreter = Path(sys.executable)
    package = Path(__file__).parents[1]
    return (interpreter, interpreter.resolve(), Path(sys.prefix), Path(sys.base_prefix), package)


def _try(program: Path) -> None:
    """Let somebody without rights, and without this process's environment, run it."""
    try:
        done = subprocess.run(
            [program, "--help"],
            env={"PATH": os.defpath},
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        why = said[0] if said else f"it ends with {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        raise HiveError(f"Another user than root cannot run {program}: {why}. {INSTEAD}.")
