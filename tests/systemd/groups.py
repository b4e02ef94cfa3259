"""A machine's control groups: one of its own in each hierarchy, so that it may divide them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

DIVIDED = {"cpu", "cpuacct", "memory", "pids", "devices", "name=systemd"}
"""The controllers of version 1 that a service's units speak of, and systemd's own hierarchy."""


def hierarchies() -> list[Path]:
    """The groups that this process is in: that of version 2, and those of version 1 that count."""
    mounted = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        name, _, options = kind.split(maxsplit=2)
        if name == "cgroup2":
            mounted[""] = Path(fields.split()[4])
        elif name == "cgroup":
            mounted |= {one: Path(fields.split()[4]) for one in options.split(",")}
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        names = set(controllers.split(","))
        if (not controllers or names & DIVIDED) and (name := min(names)) in mounted:
            found.append(mounted[name] / path.lstrip("/"))
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def own_groups(name: str) -> Iterator[list[Path]]:
    """A group of that name in each hierarchy, below this process's own; gone at the end."""
    made: list[Path] = []
    try:
        for parent in hierarchies():
            if (parent / "cgroup.subtree_control").exists():
                share(parent)
            (parent / name).mkdir()
            made.append(parent / name)
        yield made
    finally:
        for group in made:
            _remove(group)


def share(group: Path) -> None:
    """Let the groups below one of version 2 have its controllers, where it may give them."""
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove(group: Path) -> None:
    """Its processes have been killed, and may take a moment to be gone."""
    end = time.monotonic() + 10
    while True:
        try:
            for below in sorted(group.rglob("*/"), reverse=True):
                below.rmdir()
            group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
