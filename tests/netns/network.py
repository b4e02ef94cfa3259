"""Machines that are network namespaces, on one switch; and what can happen to their links."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
FAULTS = ("down", "deaf", "mute", "reset", "loss")
_RULES = {
    "deaf": ("input", 'iifname "e0" drop'),
    "mute": ("output", 'oifname "e0" drop'),
    "reset": ("input", 'iifname "e0" meta l4proto tcp reject with tcp reset'),
    "loss": ("input", 'iifname "e0" numgen random mod 100 < 30 drop'),
}


def _run(*command: str, given: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, input=given, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def _table(hook: str, rule: str) -> str:
    """What nft reads: one rule at one place."""
    chain = f"chain c {{\ntype filter hook {hook} priority 0\n{rule}\n}}"
    return f"table inet fault {{\n{chain}\n}}\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: its network namespace, its address, and its port at the switch."""

    namespace: str
    address: str
    switch: str
    port: str

    def command(self, *command: str) -> tuple[str, ...]:
        """A command as it is run there."""
        return ("ip", "netns", "exec", self.namespace, *command)

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Its link is down; or it hears nothing (deaf), is not heard (mute), has every connection
        reset, or loses 30% of what is sent to it (loss).
        """
        if kind == "down":
            _run("ip", "-n", self.switch, "link", "set", self.port, "down")
        else:
            _run(*self.command("nft", "-f", "-"), given=_table(*_RULES[kind]))
        try:
            yield
        finally:
            if kind == "down":
                _run("ip", "-n", self.switch, "link", "set", self.port, "up")
            else:
                _run(*self.command("nft", "delete", "table", "inet", "fault"))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is on that machine."""
        with Path("/proc/thread-self/ns/net").open() as before:
            with Path(f"/run/netns/{self.namespace}").open() as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def network(*names: str) -> Iterator[dict[str, Machine]]:
    """Machines of those names on one switch. All of it is gone afterwards; end what runs there
    before.
    """
    token = secrets.token_hex(3)
    switch = f"hive-{token}-switch"
    made: list[str] = []

    def add(namespace: str) -> None:
        _run("ip", "netns", "add", namespace)
        made.append(namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")

    try:
        add(switch)
        _run("ip", "-n", switch, "link", "add", "b0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "b0", "up")
        machines = {}
        for number, name in enumerate(names, 1):
            machine = Machine(f"hive-{token}-{name}", f"10.77.0.{number}", switch, f"p{number}")
            add(machine.namespace)
            pair = ("type", "veth", "peer", "name", machine.port, "netns", switch)
            _run("ip", "-n", machine.namespace, "link", "add", "e0", *pair)
            _run("ip", "-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "e0")
            _run("ip", "-n", machine.namespace, "link", "set", "e0", "up")
            _run("ip", "-n", switch, "link", "set", machine.port, "master", "b0", "up")
            machines[name] = machine
        yield machines
    finally:
        for namespace in made:
            _run("ip", "netns", "del", namespace)
