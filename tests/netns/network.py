"""Machines that are network namespaces, on a switch with two sides; and what can happen to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Collection, Iterator
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

# Run as `sh -c … sh NAME HOSTS COMMAND…`, where `ip netns exec` has made a mount namespace.
_AS_MACHINE = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def _run(*command: str, given: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, input=given, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def _table(hook: str, rule: str) -> str:
    """What nft reads: one rule at one place."""
    chain = f"chain c {{\ntype filter hook {hook} priority 0\n{rule}\n}}"
    return f"table inet fault {{\n{chain}\n}}\n"


@contextlib.contextmanager
def _down(switch: str, port: str) -> Iterator[None]:
    _run("ip", "-n", switch, "link", "set", port, "down")
    try:
        yield
    finally:
        _run("ip", "-n", switch, "link", "set", port, "up")


@dataclass(slots=True)
class Machine:
    """One machine: its network namespace, its address, and its port at the switch."""

    name: str
    namespace: str
    address: str
    switch: str
    port: str

    def command(self, *command: str, hosts: Path | None = None) -> tuple[str, ...]:
        """A command as it is run there.

        hosts: the file that it reads as /etc/hosts; then its host name is the machine's, too.
        """
        there = ("ip", "netns", "exec", self.namespace)
        if hosts is None:
            return (*there, *command)
        named = ("unshare", "--uts", "sh", "-c", _AS_MACHINE, "sh", self.name, str(hosts))
        return (*there, *named, *command)

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Its link is down; or it hears nothing (deaf), is not heard (mute), has every connection
        reset, or loses 30% of what is sent to it (loss).
        """
        if kind == "down":
            with _down(self.switch, self.port):
                yield
            return
        _run(*self.command("nft", "-f", "-"), given=_table(*_RULES[kind]))
        try:
            yield
        finally:
            _run(*self.command("nft", "delete", "table", "inet", "fault"))

    def move(self, address: str) -> None:
        """Its address is another one: nothing reaches it at the old one, or comes from there."""
        _run("ip", "-n", self.namespace, "addr", "flush", "dev", "e0")
        _run("ip", "-n", self.namespace, "addr", "add", f"{address}/24", "dev", "e0")
        self.address = address

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


@dataclass(slots=True)
class Network:
    """Machines by name, on the near and the far side of one switch."""

    switch: str
    machines: dict[str, Machine]

    def parted(self) -> contextlib.AbstractContextManager[None]:
        """Nothing passes between its two sides."""
        return _down(self.switch, "t0")


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def network(*names: str, far: Collection[str] = ()) -> Iterator[Network]:
    """Machines of those names; `far` says which of them are on the far side. All of it is gone
    afterwards; end what runs there before.
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
        _run("ip", "-n", switch, "link", "add", "t0", "type", "veth", "peer", "name", "t1")
        for side, trunk in (("b0", "t0"), ("b1", "t1")):
            _run("ip", "-n", switch, "link", "add", side, "type", "bridge")
            _run("ip", "-n", switch, "link", "set", side, "up")
            _run("ip", "-n", switch, "link", "set", trunk, "master", side, "up")
        net = Network(switch, {})
        for number, name in enumerate(names, 1):
            namespace, address = f"hive-{token}-{name}", f"10.77.0.{number}"
            machine = Machine(name, namespace, address, switch, f"p{number}")
            add(machine.namespace)
            pair = ("type", "veth", "peer", "name", machine.port, "netns", switch)
            _run("ip", "-n", machine.namespace, "link", "add", "e0", *pair)
            _run("ip", "-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "e0")
            _run("ip", "-n", machine.namespace, "link", "set", "e0", "up")
            side = "b1" if name in far else "b0"
            _run("ip", "-n", switch, "link", "set", machine.port, "master", side, "up")
            net.machines[name] = machine
        yield net
    finally:
        for namespace in made:
            _run("ip", "netns", "del", namespace)
