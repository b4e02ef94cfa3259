"""What is run of upstream's tests, in which way, and how."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.sources import REPOSITORY, folder_of
from tests.harness import BrokerServer

INI = Path(__file__).with_name("upstream.ini")

KOMBU = ("t/integration/test_redis.py", "t/integration/test_redis_brpop_qos.py")
# Not those of other services (Azure, a database, memcached, the broker in memory), nor that of
# signed messages, for which Celery needs a package that Hive does without.
CELERY = tuple(
    f"t/integration/test_{name}.py"
    for name in (
        "redis_backend",  # first: it wants to see no subscriptions, and others leave some
        "canvas",
        "tasks",
        "connection_recovery",
        "group_chains",
        "inspect",
        "worker",
        "beat",
        "events_state_memory_leak",
        "loader",
        "logfile_format",
        "mem_leak_in_exception_handling",
        "request_backend_down",
        "serialization",
        "upgrade",
    )
)


@dataclass(frozen=True)
class Suite:
    """A package's tests in one way (see plugin.py). short: what `make test` runs of them, as
    pytest's -k has it.
    """

    package: str
    way: str
    modules: tuple[str, ...]
    short: str

    @property
    def name(self) -> str:
        return f"{self.package}-{self.way}"

    def run(self, *, short: bool = False) -> bool:
        """Run them on a broker of their own; what fails is run once more, alone, since upstream
        runs its flaky tests up to six times.
        """
        with tempfile.TemporaryDirectory() as scratch:
            failed = Path(scratch, "failed")
            server = BrokerServer(Path(scratch, "broker"), durable=False).start()
            try:
                environment = self._environment(server, Path(scratch), failed)
                if self._pytest(environment, *self.modules, *(("-k", self.short) if short else ())):
                    return True
                again = failed.read_text().splitlines() if failed.exists() else []
                if not again:
                    return False
                print(f"\n{self.name}: once more, alone: {', '.join(again)}", flush=True)
                with server.client() as client:
                    client.flushall()
                return self._pytest(environment, *again)
            finally:
                server.kill()

    def _environment(self, server: BrokerServer, scratch: Path, failed: Path) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REDIS_", "HIVE_", "CELERY_", "PYTEST_"))
        }
        return {
            **own,
            **server.environment,
            "REDIS_6379_TCP": str(server.port),
            "TEST_BROKER": server.url,
            "TEST_BACKEND": server.url,
            "HIVE_CONFORMANCE": self.way,
            "HIVE_CONFORMANCE_SUITE": self.package,
            "HIVE_CONFORMANCE_FAILED": str(failed),
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(scratch),
        }

    def _pytest(self, environment: dict[str, str], *arguments: str) -> bool:
        folder = folder_of(self.package)
        if folder is None:
            raise FileNotFoundError(f"{self.package}'s tests are not there: make setup")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(INI),
            "--rootdir",
            str(folder),
            *arguments,
        ]
        return subprocess.run(command, cwd=folder, env=environment).returncode == 0


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "kombu",
            "client",
            KOMBU,
            "(BasicFunctionality and not failed) or PublishBatch or RedisMessage or test_fanout or "
            "RestoreAtShutdown"
            " or test_requeue or test_failed_requeue or brpop_qos",
        ),
        Suite(
            "kombu",
            "spore",
            KOMBU,
            "(BasicFunctionality and not failed) or RedisMessage or RestoreAtShutdown or "
            "test_requeue",
        ),
        Suite(
            "celery",
            "spore",
            CELERY,
            "connection_recovery or test_simple_chain or test_complex_chain or test_single_chord",
        ),
        # What they do without Hive: to prove that a test on the list fails there, too.
        Suite("kombu", "stock", KOMBU, "test_ack"),
        Suite("celery", "stock", CELERY, "test_simple_chain"),
    )
}
