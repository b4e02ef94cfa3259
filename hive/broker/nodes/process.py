"""Which process, on which machine, an incarnation is; and whether it has ended."""

from __future__ import annotations

import os
import secrets
import socket
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask
from hive.logs import get_logger
from hive.settings import Settings

log = get_logger(__name__)

HOME_ID = "machine-id"
"""The file in HIVE_HOME that keeps the machine's own id."""


class Process(BaseModel):
    """One process of a node, as `venom:processes` has it.

    machine: tells machines apart, also those that were cloned from one image, and containers. Two
        processes with one HIVE_HOME on one boot of a kernel are on one machine.
    host: its name, for people. boot, space: the kernel's boot id and the namespace of the pid; only
        there the pid says anything. began: ticks since boot at which the process was started.
    dead_after: ms without a heartbeat after which it wants to be missed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    machine: str
    host: str = ""
    boot: str = ""
    space: str = ""
    pid: int = 0
    began: int = 0
    dead_after: int = 0

    @classmethod
    def own(cls, settings: Settings) -> Process:
        """This process."""
        boot, space, pid = _boot_id(), _pid_space(), os.getpid()
        home = _home_id(settings.hive_home) or space
        began = _began(pid)
        return cls(
            machine=f"{boot}/{home}",
            host=socket.gethostname(),
            boot=boot,
            space=space,
            pid=pid,
            began=-1 if began is None else began,
            dead_after=int(settings.dead_after * 1000),
        )

    @classmethod
    def read(cls, packed: bytes | None) -> Process | None:
        """What the broker has; None where nothing, or nothing that can be read."""
        try:
            return None if packed is None else cls.model_validate_json(packed)
        except ValidationError:
            return None

    @property
    def has_ended(self) -> bool:
        """Whether it is certain to have ended: only its own machine can tell, within one boot."""
        if not self.boot or self.began < 0:
            return False
        if (self.boot, self.space) != (_boot_id(), _pid_space()):
            return False
        began = _began(self.pid)
        return began != self.began and (began is not None or _is_gone(self.pid))


def known_processes(client: BrokerClient) -> dict[str, Process]:
    """All that the broker knows, by incarnation; blocks for one round trip.

    Raises: redis errors.
    """
    rows: dict[bytes, bytes] = ask(client, client.redis.hgetall, client.key("processes")) or {}
    read = {name.decode(errors="replace"): Process.read(packed) for name, packed in rows.items()}
    return {name: process for name, process in read.items() if process is not None}


@cache
def _boot_id() -> str:
    return _text(Path("/proc/sys/kernel/random/boot_id"))


@cache
def _pid_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """When the process was started, in ticks since boot; None when it does not run."""
    # The name before them may contain anything, a bracket too.
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, or only what its parent has still to take note of. Where
    /proc hides the processes of others (its option hidepid), one that cannot be seen may live.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(_text(Path(f"/proc/{pid}/stat")))


def _home_id(home: Path) -> str:
    """The id that HIVE_HOME keeps, made where there is none; "" where it cannot be kept."""
    path = home / HOME_ID
    found = _text(path)
    if found:
        return found
    try:
        home.mkdir(parents=True, exist_ok=True)
        own = home / f"{HOME_ID}.{secrets.token_hex(4)}"
        own.write_text(secrets.token_hex(16))
        try:
            os.link(own, path)  # of several that begin at once one is the first
        except FileExistsError:
            pass
        finally:
            own.unlink()
    except OSError as error:
        log.warning("machine_id_not_kept", home=str(home), error=str(error))
    return _text(path)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
