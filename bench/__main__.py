"""Run benches one after the other, each in a process of its own: `python -m bench [NAME ...]`, all
of them without names.

A bench is a module of this package that can be run, `python -m bench.NAME`; it prints what it
measured and exits 0 when all its bounds hold. A module whose name starts with an underscore is
shared by benches and is none itself.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LIMIT = 1800.0
"""Seconds that one bench may take."""


def bench_names(directory: Path) -> list[str]:
    """The benches in a directory, in alphabetical order."""
    return sorted(file.stem for file in directory.glob("*.py") if not file.stem.startswith("_"))


def run(name: str, root: Path, limit: float = LIMIT) -> int:
    """Run one bench in the checkout `root`, its output on ours.

    Returns: its exit code; that of an interrupted process when it took more than `limit` seconds.
    """
    process = subprocess.Popen([sys.executable, "-m", f"bench.{name}"], cwd=root)
    try:
        return process.wait(limit)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        # An interrupt lets the bench stop the broker and the workers that it started.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if isinstance(reason, KeyboardInterrupt):
            raise
        print(f"{name}: not done within {limit:.0f} s", flush=True)
        return process.returncode or 1


def main(arguments: Sequence[str]) -> int:
    """Run the named benches, or all.

    Returns: 0 all passed, 1 one failed, 2 there is no such bench.
    """
    known = bench_names(Path(__file__).parent)
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        print(
            f"There is no bench {', '.join(unknown)}. Benches: {', '.join(known) or 'none'}.",
            file=sys.stderr,
        )
        return 2
    lines = []
    failed = False
    for name in arguments or known:
        print(f"\n== {name}", flush=True)
        begun = time.monotonic()
        code = run(name, Path(__file__).parents[1])
        failed = failed or code != 0
        lines.append(
            f"{name:<20} {'passed' if code == 0 else f'FAILED ({code})':<12} "
            f"{time.monotonic() - begun:6.0f} s"
        )
    print("\n== all", *lines, sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
