"""The directory in which a hive on one machine keeps its data, its logs and its secrets.

By it the hive's processes are known, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from hive.errors import HiveError, StateDirectoryError
from hive.local.state_files import directory_errors, write_secret

# Every process of a hive inherits this variable, which the kernel shows to the process's owner. So
# no record of what runs has to be kept, and none can be wrong after a crash.
MARK = "HIVE_LOCAL_STATE"
LOCK_WITHIN = 1.0


class StateDirectory:
    """One state directory.

    `up` holds its lock as long as it lives; the kernel lets go of it however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute().resolve()
        self.env_file = self.path / "hive.env"
        self.log_file = self.path / "hive.log"
        self._pid_file = self.path / "hive.pid"
        self._lock_file = self.path / "hive.lock"
        self._lock: int | None = None

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of every process of this hive must contain.

        SPT_NOENV keeps setproctitle, which Celery uses where it is installed, from writing its
        titles over the environment.
        """
        return {MARK: str(self.path), "SPT_NOENV": "1"}

    def log_of(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    @property
    def nexus_home(self) -> Path:
        """HIVE_HOME of the nexus."""
        return self.path / "nexus"

    def home_of(self, name: str) -> Path:
        """HIVE_HOME of a spore."""
        return self.path / "spores" / name

    def prepare(self) -> None:
        """Make the directory. Raises: StateDirectoryError when it cannot be made or written to."""
        with directory_errors(self.path):
            if not self.path.exists():
                self.path.mkdir(parents=True, mode=0o700)
                # The directory holds passwords, and is often made inside a repository.
                (self.path / ".gitignore").write_text("*\n")
            (self.path / "logs").mkdir(exist_ok=True)
            self._lock_file.touch()

    def turn_logs(self, names: Iterable[str]) -> None:
        """Keep the last run's logs of these processes beside the new ones, and no older."""
        with directory_errors(self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self.log_of(name).replace(self.log_of(f"{name}.1"))

    def acquire(self) -> None:
        """Lock the directory for this process.

        Raises: StateDirectoryError when another hive runs in it, or it cannot be used.
        """
        self.prepare()
        with directory_errors(self.path):
            lock = os.open(self._lock_file, os.O_RDWR)
        end = time.monotonic() + LOCK_WITHIN
        # `down` holds the lock for the instant in which it looks whether somebody else does.
        while not _locked(lock):
            if time.monotonic() > end:
                os.close(lock)
                raise StateDirectoryError(
                    f"Another `hive up` runs in {self.path}{self._pid_shown()}. "
                    f"Stop it with `hive down --state {self.path}`, or choose another --state."
                )
            time.sleep(0.05)
        self._lock = lock
        with directory_errors(self.path):
            self._pid_file.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        """Remove what tells of a running hive, and let the lock go."""
        if self._lock is not None:
            self.forget()
            os.close(self._lock)
            self._lock = None

    def forget(self) -> None:
        """Remove the files that a running hive leaves for others."""
        for path in (self.env_file, self._pid_file):
            with contextlib.suppress(OSError):
                path.unlink()

    def publish(self, variables: Mapping[str, str]) -> None:
        """Write hive.env, which other programs read through HIVE_ENV_FILE; only its owner may."""
        with directory_errors(self.path):
            write_secret(
                self.env_file, "".join(f"{name}={value}\n" for name, value in variables.items())
            )

    def in_use(self) -> bool:
        """Whether a living `hive up` holds the lock."""
        if not self._lock_file.is_file():
            return False
        with directory_errors(self.path):
            lock = os.open(self._lock_file, os.O_RDWR)
        try:
            return not _locked(lock)
        finally:
            os.close(lock)

    def holder(self) -> psutil.Process | None:
        """The `hive up` that holds the lock: hive.pid's process, if it has the lock file open."""
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            return (
                process
                if str(self._lock_file) in (file.path for file in process.open_files())
                else None
            )
        except (OSError, ValueError, psutil.Error):
            return None

    def processes(self) -> list[psutil.Process]:
        """The living processes of this hive, `hive up` itself not among them; also those that a
        killed `hive up` left behind.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARK) == str(self.path):
                    found.append(process)
        return found

    def end_processes(
        self, *, patience: float, within: float, pause: Callable[[float], object] = time.sleep
    ) -> None:
        """Wait until no process of this hive is left.

        Those that are still there after `patience` seconds are killed.

        Raises: HiveError naming those that are there after `within` seconds.
        """
        start = time.monotonic()
        while left := self.processes():
            waited = time.monotonic() - start
            if waited > within:
                raise HiveError(
                    f"Of the hive in {self.path} these processes could not be ended: "
                    f"{', '.join(str(p.pid) for p in left)}."
                )
            if waited >= patience:
                for process in left:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            pause(0.1)

    def _pid_shown(self) -> str:
        try:
            return f" (process {int(self._pid_file.read_text())})"
        except (OSError, ValueError):
            return ""


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
