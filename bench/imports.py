"""Imports: what CPU time it costs to import Hive's errors, to ask `hive --help`, and `hive status`.

Against what each of them cost when importing Hive made the ready application and imported all that
is public, or against the same three of another checkout: `--baseline DIRECTORY`. Every figure is
the median over child processes that take turns; `hive status` asks a private broker that knows one
node.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench._verdict import verdict
from tests.harness import BrokerServer

CHECKOUT = Path(__file__).parents[1]
ROUNDS = 15
BOUNDS = {"import hive.errors": 0.25, "hive --help": 0.25, "hive status": 0.55}

ALL = "import hive; [getattr(hive, name) for name in hive.__all__]; "
COMMANDS: dict[str, Sequence[str]] = {
    "import hive.errors": ("-c", "import hive.errors"),
    "hive --help": ("-m", "hive", "--help"),
    "hive status": ("-m", "hive", "status"),
}
RUN = "import sys; from hive.cli.main import execute; sys.exit(execute([{!r}]))"
AS_BEFORE: dict[str, Sequence[str]] = {
    "import hive.errors": ("-c", f"{ALL}import hive.errors"),
    "hive --help": ("-c", ALL + RUN.format("--help")),
    # A command that asks the broker had all of the application's tasks imported, too.
    "hive status": (
        "-c",
        f"{ALL}hive.app.loader.import_default_modules(); {RUN.format('status')}",
    ),
}

NODE = """
import time
from hive.broker.channel import steps
from hive.broker.link.client import ready_client
from hive.broker.nodes.table import NodeFacts, NodeLoad, NodeTable
from hive.settings import Settings
client = ready_client(Settings.load())
node, incarnation = "n1@h", "n1@h/00000001"
client.run(steps.ATTACH, (), ("", node, incarnation, 1, "1", "", 1_500))
facts = NodeFacts(node_id=node, node_name="n1", host="h", pid=1, incarnation=incarnation, slots=2,
                  cpus=1, memory_mb=1, queues=["venom:tasks:background"], started_at=time.time())
NodeTable(client).beat(incarnation, NodeLoad(0.1, 0.1, 1, 0.1, 0, 0, False), facts, held="")
"""


def cpu_seconds(checkout: Path, arguments: Sequence[str], env: Mapping[str, str]) -> float:
    """User and system time of one Python process, which must succeed."""
    before = _children()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        env={**env, "PYTHONPATH": str(checkout)},
        cwd=env["HOME"],
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    directory: Path, baseline: Path | None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """CPU seconds of each command, now and before; the first round, which compiles, is dropped."""
    server = BrokerServer(directory / "broker", durable=False).start()
    env = {**os.environ, **server.environment, "HOME": str(directory)}
    env |= {"HIVE_HEARTBEAT_INTERVAL": "60"}
    now: dict[str, list[float]] = {name: [] for name in COMMANDS}
    before: dict[str, list[float]] = {name: [] for name in COMMANDS}
    try:
        cpu_seconds(CHECKOUT, ("-c", NODE), env)
        for number in range(ROUNDS + 1):
            for name, arguments in COMMANDS.items():
                ours = cpu_seconds(CHECKOUT, arguments, env)
                theirs = (
                    cpu_seconds(CHECKOUT, AS_BEFORE[name], env)
                    if baseline is None
                    else cpu_seconds(baseline, arguments, env)
                )
                if number:
                    now[name].append(ours)
                    before[name].append(theirs)
    finally:
        server.kill()
    return now, before


def main(arguments: Sequence[str]) -> int:
    """Run the bench. Returns: 0 when its bounds hold, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.imports")
    parser.add_argument(
        "--baseline",
        type=lambda given: Path(given).resolve(strict=True),
        metavar="DIRECTORY",
        help="a checkout whose same commands the ratios are to",
    )
    baseline: Path | None = parser.parse_args(arguments).baseline
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as directory:
        now, before = measure(Path(directory), baseline)
    good = True
    for name, bound in BOUNDS.items():
        ours, theirs = statistics.median(now[name]), statistics.median(before[name])
        print(f"  {name}: {1000 * ours:.0f} ms of CPU, before {1000 * theirs:.0f} ms")
        good = verdict(f"{name} against before", ours / theirs, at_most=bound) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
