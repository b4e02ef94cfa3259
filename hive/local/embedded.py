"""The embedded broker: a Valkey server of one's own, for a hive on one machine."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from hive.errors import BrokerStartError, PortInUseError
from hive.local import guardian
from hive.local.server_program import find_server
from hive.local.state_files import directory_errors, kept_password, last_lines, write_secret
from hive.logs import get_logger

log = get_logger(__name__)

HOST = "127.0.0.1"
START_WITHIN = 60.0
STOP_WITHIN = 10.0

# The server may not write its process title: that would overwrite its environment, by which `hive
# down` knows the processes of a hive.
CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir ./
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
logfile ""
set-proc-title no
"""


class EmbeddedBroker:
    """A Valkey (or Redis) server that listens on loopback, asks for a password of its own, and
    keeps its data under a directory.

    A guardian process ends the server when this process is gone, even killed (see
    hive.local.guardian). `start` may be called again after the server has ended: same port, same
    data, same password.
    """

    def __init__(self, state_dir: Path, port: int = 0) -> None:
        """state_dir: the hive's state directory; everything is in its folder `broker`. port: 0
        picks a free one at the first start.
        """
        self.directory = state_dir.absolute() / "broker"
        self.port = port
        self.log_file = self.directory / "server.log"
        self._password: SecretStr | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        # The guardian's pipe. It is the same for every start, so that who inherited its write end
        # keeps the next server alive too.
        self._pipe: tuple[int, int] | None = None

    @property
    def password(self) -> SecretStr:
        """The server's password, made at the first start and kept in a file for its owner alone."""
        if self._password is None:
            self._password = SecretStr(kept_password(self.directory / "password"))
        return self._password

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which programs find this broker, password included."""
        return {
            "REDIS_HOST": HOST,
            "REDIS_PORT": str(self.port),
            "REDIS_DB": "0",
            "REDIS_USERNAME": "",
            # These are given too, since the surrounding environment may speak of another broker.
            "REDIS_TLS": "false",
            **dict.fromkeys(("REDIS_TLS_CA", "REDIS_TLS_CERT", "REDIS_TLS_KEY"), ""),
            "REDIS_PASSWORD": self.password.get_secret_value(),
        }

    @property
    def lifeline(self) -> int:
        """The write end of the guardian's pipe.

        A process that inherits it keeps the server alive: spores do, for their last
        acknowledgements.
        """
        if self._pipe is None:
            raise BrokerStartError("The embedded broker has not been started.")
        return self._pipe[1]

    @property
    def running(self) -> bool:
        return self._guardian is not None and self._guardian.poll() is None

    def start(
        self, *, within: float = START_WITHIN, pause: Callable[[float], object] = time.sleep
    ) -> EmbeddedBroker:
        """Start the server and wait until it answers.

        within: seconds to wait; loading a large data set may take some.
        pause: how to wait a moment (seconds); what it raises ends the start.

        Returns: self, at once when it runs already.
        Raises: BrokerStartError when there is no server program or it ended (with the last lines of
        its log), PortInUseError, StateDirectoryError when the directory cannot be written.
        """
        if self.running:
            return self
        end = time.monotonic() + within
        server = find_server()
        # After a crash the port may be held for a moment by the server that is just ending.
        patience = time.monotonic() + STOP_WITHIN if self._guardian is not None else 0.0
        self.port = claim_port(self.port, patience)
        with directory_errors(self.directory):
            self._prepare()
        self._launch(server)
        try:
            while not self._answers():
                self._check_alive()
                if time.monotonic() > end:
                    raise BrokerStartError(
                        f"The embedded broker did not answer within {within:.0f} s. "
                        f"{last_lines(self.log_file)}"
                    )
                pause(0.02)
        except BaseException:
            self.stop()
            raise
        log.info("broker_started", port=self.port, server=server.name, data=str(self.directory))
        return self

    def stop(self, within: float = STOP_WITHIN) -> None:
        """Shut the server down, its data written; kill it when that takes longer than `within`
        seconds. Nothing when it has ended.
        """
        process = self._guardian
        if process is not None:
            # SIGTERM is the server's SHUTDOWN, without a connection and a password.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(within)
            if process.poll() is None:
                log.warning("broker_killed", port=self.port)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._close()

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        text = CONFIGURATION.format(
            host=HOST, port=self.port, password=self.password.get_secret_value()
        )
        write_secret(self.directory / "server.conf", text)

    def _launch(self, server: Path) -> None:
        """Start the guardian, and by it the server.

        The password is in the configuration file alone, since all users can read a command line.
        """
        self._pipe = self._pipe or os.pipe()
        reader = self._pipe[0]
        command = [
            sys.executable,
            "-I",
            "-S",
            guardian.__file__,
            str(reader),
            str(server),
            str(self.directory / "server.conf"),
        ]
        with self.log_file.open("wb") as output:
            try:
                self._guardian = subprocess.Popen(
                    command,
                    cwd=self.directory / "data",
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(reader,),
                    # A terminal's Ctrl-C goes to its process group, but the broker has to end last.
                    start_new_session=True,
                )
            except OSError as error:
                raise BrokerStartError(
                    f"The embedded broker could not be started: {error}"
                ) from error

    def _answers(self) -> bool:
        client = redis.Redis(
            host=HOST,
            port=self.port,
            password=self.password.get_secret_value(),
            socket_timeout=5,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.exceptions.AuthenticationError as error:
            raise PortInUseError(
                f"Port {self.port} is taken by another Redis server. Choose another one with "
                "--redis-port."
            ) from error
        except redis.exceptions.RedisError:
            # Not listening yet, or still loading its data.
            return False
        finally:
            client.close()

    def _check_alive(self) -> None:
        if self.running:
            return
        words = last_lines(self.log_file)
        if "Address already in use" in words:
            raise PortInUseError(
                f"Port {self.port} is taken by another program. Choose another one with "
                "--redis-port; 0 picks a free one."
            )
        raise BrokerStartError(f"The embedded broker ended as soon as it was started. {words}")

    def _close(self) -> None:
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = self._guardian = None


def claim_port(port: int, patience: float = 0.0) -> int:
    """Check that a loopback port can be listened on; 0 picks a free one.

    patience: until when (monotonic seconds) to wait for the program that holds the port.

    Returns: the port. Raises: PortInUseError.
    """
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > patience:
                    why = (
                        "is taken by another program"
                        if error.errno == errno.EADDRINUSE
                        else f"cannot be used ({error.strerror})"
                    )
                    raise PortInUseError(
                        f"Port {port} {why}. Choose another one; 0 picks a free one."
                    ) from error
        time.sleep(0.05)
