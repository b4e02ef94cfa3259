"""A hive as docker-compose.yml makes it, in a directory of its own, with either Compose."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import base
from tests.docker.engine import Engine
from tests.docker.images import REPOSITORY, SHOP
from tests.harness import wait_until

PATIENCE = 90
LABEL = "com.docker.compose"
TOOLS = ("1", "2")
PASSWORDS = ("REDIS_PASSWORD", "REDIS_ADMIN_PASSWORD", "HIVE_FLOWER_PASSWORD")


class Project:
    """What somebody has who copied the compose files and config/, and wrote a .env.

    tool: "1" is docker-compose 1.29, as Debian 12 has it, "2" is Docker's own Compose 2.
    passwords: those of .env, by name; made where they are not given.
    settings: further lines of .env.
    """

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        tool: str,
        *,
        overrides: tuple[str, ...] = (),
        passwords: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.name = f"hive{secrets.token_hex(3)}"
        program = "docker-compose" if tool == "1" else str(base.compose_plugin())
        files = ("docker-compose.yml", *(f"docker-compose.{name}.yml" for name in overrides))
        self._compose = [program, "--project-name", self.name]
        self._compose += [word for file in files for word in ("--file", file)]
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(REPOSITORY / file, directory)
        shutil.copytree(REPOSITORY / "config", directory / "config")
        self.passwords = dict(passwords if passwords is not None else _new_passwords())
        self.settings = {"HIVE_IMAGE": SHOP, "HIVE_APP": "shop:app", "HIVE_CONCURRENCY": "2"}
        self.settings |= settings or {}
        self.write_env()

    def write_env(self) -> None:
        """As config/hive.env.example has it: what has odd characters is between quotes."""
        lines = [f"{name}={value}" for name, value in self.settings.items()]
        for name, value in self.passwords.items():
            escaped = value.replace("'", "\\'")
            lines.append(f"{name}='{escaped}'")
        (self.directory / ".env").write_text("\n".join(lines) + "\n")

    def compose(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.engine.run(*self._compose, *arguments, cwd=self.directory, **options)

    def up(self, *arguments: str, spores: int = 1) -> None:
        """Everything is started, and so many spores are online."""
        self.compose("up", "--detach", "--scale", f"spore={spores}", *arguments)
        self.wait_online(spores)

    def containers(self, service: str | None = None, *, stopped: bool = False) -> list[str]:
        """The containers' ids, of one service or of all."""
        wanted = [f"label={LABEL}.project={self.name}"]
        wanted += [f"label={LABEL}.service={service}"] if service else []
        options = ["--no-trunc", "--quiet", *(["--all"] if stopped else [])]
        filters = [word for label in wanted for word in ("--filter", label)]
        return self.engine.docker("ps", *options, *filters).stdout.split()

    def container(self, service: str) -> str:
        [only] = self.containers(service)
        return only

    def execute(self, service: str, *command: str, **options: Any) -> str:
        """What a command says that is run in a container of the service."""
        where = self.containers(service)[0]
        ways = ["--interactive"] if "input" in options else []
        return self.engine.docker("exec", *ways, where, *command, **options).stdout

    def hive(self, *arguments: str, **options: Any) -> str:
        """What the command `hive` says in the nexus' container."""
        return self.execute("nexus", "hive", *arguments, **options)

    def redis(self, *command: str, user: str = "", password: str = "") -> str:
        """What the broker answers to redis-cli, on the network of the nexus."""
        login = ["--user", user, "--no-auth-warning"] if user else []
        environment = ["--env", f"REDISCLI_AUTH={password}"] if password else []
        asked = ["redis-cli", "-h", "redis", *login, *command]
        told = self.engine.docker(
            "exec", *environment, self.container("redis"), *asked, check=False
        )
        return (told.stderr + told.stdout).strip()

    def python(self, program: str, *arguments: str, **options: Any) -> str:
        """What a Python program prints that runs in the nexus' container, as a client of the hive;
        `app`, `wait` and `double` of shop.py are there.
        """
        begin = "import sys; from shop import *\n"
        return self.execute("nexus", "python3", "-c", begin + program, *arguments, **options)

    def online(self) -> set[str]:
        """The nodes that take work."""
        told = self.hive("node", "list", "--json", check=False)
        return {node["node_id"] for node in json.loads(told or "[]") if node["is_online"]}

    def wait_online(self, count: int) -> None:
        wait_until(lambda: len(self.online()) == count, PATIENCE, f"{count} spores are online")

    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.hive("account", "--json", check=False))
        return found

    def wait_all_done(self) -> dict[str, Any]:
        """Until nothing waits or runs; the account then."""

        def all_done() -> dict[str, Any] | None:
            found = self.account()
            return found if found["accepted"] == found["done"] + found["dead"] else None

        return wait_until(all_done, PATIENCE, "all is done")

    def health(self, service: str) -> set[str]:
        """What the engine says of the health of a service's containers."""
        known = self.engine.inspect(*self.containers(service))
        return {container["State"]["Health"]["Status"] for container in known}

    def logs(self, service: str | None = None) -> str:
        """All that the containers of a service, or of all, have said; a NUL between two of them."""
        every = self.containers(service, stopped=True)
        done = [self.engine.docker("logs", one) for one in every]
        return "\0".join(one.stdout + one.stderr for one in done)

    def left(self) -> dict[str, list[str]]:
        """The containers, networks and volumes that there are of it, by kind."""
        label = ("--quiet", "--filter", f"label={LABEL}.project={self.name}")
        found = {
            kind: self.engine.docker(kind, "ls", *label).stdout.split()
            for kind in ("network", "volume")
        }
        return {"container": self.containers(stopped=True)} | found

    def remove(self) -> None:
        """No container, network or volume of it is left."""
        for kind, names in self.left().items():
            if names:
                options = ["--force", "--volumes"] if kind == "container" else []
                self.engine.docker(kind, "rm", *options, *names)
        shutil.rmtree(self.directory)


def _new_passwords() -> dict[str, str]:
    return {name: secrets.token_urlsafe(32) for name in PASSWORDS}
