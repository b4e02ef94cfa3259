"""Record what a release leaves in a broker, so that the releases after it can be tried on it.

    python -m tests.upgrade.record CHECKOUT

CHECKOUT: a checkout of that release (`git worktree add`); the Python that runs this must have what
it depends on. Writes `tests/upgrade/<version>-<commit>.redis` in about half a minute; the test
takes every such file. Times in the file are those of the recording, and so long over when it is
loaded: its nodes look dead, and what was delayed is due.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.harness import BrokerServer
from tests.upgrade.database import Command, line_of, read_commands

REPOSITORY = Path(__file__).parents[2]
FOREVER = b"4102444800000"
"""The year 2100, in milliseconds."""


def main(checkout: Path) -> Path:
    """Record a checkout's release. Returns: the file that was written."""
    version = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["version"]
    git = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    file = Path(__file__).with_name(f"{version}-{commit}.redis")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = BrokerServer(directory / "broker", durable=False).start()
        try:
            told = fill(server, checkout, directory)
            with server.client() as client:
                commands = list(lasting(read_commands(client)))
        finally:
            server.kill()
    hidden = {str(directory): "/upgrade", str(REPOSITORY): "/hive", str(checkout): "/hive"}
    lines = [hide(line_of(command), hidden) for command in commands]
    file.write_text(header(version, commit, told["names"]) + "".join(f"{line}\n" for line in lines))
    return file


def fill(server: BrokerServer, checkout: Path, directory: Path) -> Any:
    """Run `fill.py` with the checkout's Hive, and all else of this one. Returns: what it told."""
    (directory / "hive").symlink_to(checkout / "hive")
    environment = {
        **os.environ,
        **server.environment,
        "PYTHONPATH": f"{directory}{os.pathsep}{REPOSITORY}",
        "HIVE_MAX_RETRIES": "1",
        "UPGRADE_RECORDS": "1",
        "UPGRADE_RAN": str(directory / "ran"),
    }
    command = [sys.executable, "-m", "tests.upgrade.fill"]
    done = subprocess.run(command, env=environment, cwd=directory, stdout=subprocess.PIPE)
    if done.returncode:
        logs = [log.read_text(errors="replace")[-3000:] for log in directory.glob("*.log")]
        sys.exit("\n".join([*logs, "the recording failed"]))
    told = json.loads(done.stdout)
    assert told["hive"].startswith(str(directory)), f"another Hive was recorded: {told['hive']}"
    return told


def lasting(commands: Iterable[Command]) -> Iterator[Command]:
    """The commands without what must be fresh to be true."""
    for command in commands:
        _, key, *values = command
        # It is there while whoever feeds a job lives. The feeder is gone by now, and the key would
        # be: it lives for seconds.
        if key.endswith(b":caller"):
            continue
        # A revocation is remembered for three hours, and the file is older. Here it is remembered.
        if key == b"venom:revoked" and command[0] == b"ZADD":
            yield b"ZADD", key, FOREVER, values[1]
            continue
        # Answers to the commands of the recording's own process.
        if key.endswith(b".reply.venom:broadcast.pidbox"):
            continue
        yield command


def hide(line: str, paths: dict[str, str]) -> str:
    """The line without this machine's names."""
    for path, shown in paths.items():
        line = line.replace(path, shown)
    line = line.replace(sys.prefix, "/venv").replace(sys.base_prefix, "/python")
    # Only where a name stands: the letters may be in an encoded body, too.
    return re.sub(rf'(?<=[@" ]){re.escape(socket.gethostname())}(?=["\\: ])', "h", line)


def header(version: str, commit: str, names: dict[str, str]) -> str:
    return f"""\
# What Hive {version}, commit {commit}, left in its broker: tests/upgrade/fill.py says how.
# Made by `python -m tests.upgrade.record CHECKOUT`; do not edit.
# Load it into an empty database: grep -v '^#' FILE | redis-cli
# names {json.dumps(names)}
"""


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]).resolve())}\n")
