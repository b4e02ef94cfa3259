"""Whether this machine lets a group of tests make what it needs, and has the tools for it.

`python -m tests.probe GROUP` ends with 0 where the group can run, with 1 where a tool is missing,
and with 3, after one line that says which right is missing, where it cannot.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
MS_PRIVATE_EVERYWHERE = 0x40000 | 0x4000  # mount(2): MS_PRIVATE, MS_REC

NAMESPACE_TOOLS = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux"}
BASE_TOOLS = {"debootstrap": "debootstrap", "nsenter": "util-linux"}
TOOLS: dict[str, dict[str, str]] = {
    "netns": NAMESPACE_TOOLS,
    "docker": NAMESPACE_TOOLS
    | BASE_TOOLS
    | {"dockerd": "docker.io", "docker-compose": "docker-compose"}
    | {"iptables": "iptables", "openssl": "openssl"},
    "systemd": NAMESPACE_TOOLS | BASE_TOOLS | {"systemd-nspawn": "systemd-container"},
    "browser": {"chromium": "chromium"},
}
"""For each group the programs that it starts, each with the package of Debian that has it."""


def missing_right(group: str) -> str:
    """The first right that is missing; "" where none is."""
    if group == "browser":
        return ""
    rights: dict[str, Callable[[], bool]] = {
        "a mount namespace, and to mount in it (CAP_SYS_ADMIN)": _mounts,
        "a host name of its own (CLONE_NEWUTS, CAP_SYS_ADMIN)": lambda: _unshares(CLONE_NEWUTS),
        "a network namespace (CLONE_NEWNET, CAP_NET_ADMIN)": lambda: _unshares(CLONE_NEWNET),
    }
    for right, is_there in rights.items():
        if not _in_child(is_there):
            return right
    if group in ("docker", "systemd") and not _makes_control_groups():
        return "a control group of its own (a writable /sys/fs/cgroup)"
    return _not_kept() if shutil.which("ip") else ""


def main(group: str) -> int:
    right = missing_right(group)
    if right:
        sys.stderr.write(f"tests/{group} DID NOT RUN: this machine does not allow {right}.\n")
        return 3
    tools = [
        f"{tool} (Debian: {package})"
        for tool, package in TOOLS[group].items()
        if shutil.which(tool) is None
    ]
    if tools:
        sys.stderr.write(f"tests/{group} needs {', '.join(tools)}.\n")
        return 1
    return 0


def _in_child(step: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if step() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _unshares(flag: int) -> bool:
    return bool(ctypes.CDLL(None).unshare(flag) == 0)


def _mounts() -> bool:
    libc = ctypes.CDLL(None)
    return (
        _unshares(CLONE_NEWNS)
        and libc.mount(b"none", b"/", None, MS_PRIVATE_EVERYWHERE, None) == 0
        and libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0
    )


def _makes_control_groups() -> bool:
    """In the one hierarchy of version 2, or in each that the engines use of version 1."""
    top = Path("/sys/fs/cgroup")
    tops = [top] if (top / "cgroup.controllers").exists() else [top / "memory", top / "pids"]
    for hierarchy in tops:
        own = hierarchy / f"hive-probe-{os.getpid()}"
        try:
            own.mkdir()
            own.rmdir()
        except OSError:
            return False
    return True


def _not_kept() -> str:
    """A namespace that the kernel gives may still have no place to be kept in."""
    name = f"hive-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"to keep a namespace under /run/netns ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


if __name__ == "__main__":
    if sys.argv[1:] not in ([group] for group in TOOLS):
        sys.exit(f"Name one of {', '.join(TOOLS)}.")
    sys.exit(main(sys.argv[1]))
