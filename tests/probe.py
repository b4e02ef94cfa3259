"""Whether this machine lets us make network namespaces, and has the tools to do so.

`python -m tests.netns.probe` ends with 0 where the tests can run, with 1 where a tool is missing,
and with 3, after one line that says which right is missing, where they cannot.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
RIGHTS = {
    "a mount namespace (CLONE_NEWNS, CAP_SYS_ADMIN)": CLONE_NEWNS,
    "a host name of its own (CLONE_NEWUTS, CAP_SYS_ADMIN)": CLONE_NEWUTS,
    "a network namespace (CLONE_NEWNET, CAP_NET_ADMIN)": CLONE_NEWNET,
}
TOOLS = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux"}


def missing_right() -> str:
    """The first right that is missing; "" where none is."""
    for right, flag in RIGHTS.items():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if ctypes.CDLL(None, use_errno=True).unshare(flag) == 0 else 1)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            return right
    if shutil.which("ip") is None:
        return ""
    # A namespace that the kernel gives may still have no place to be kept in.
    name = f"hive-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"to keep a namespace under /run/netns ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def main() -> int:
    right = missing_right()
    if right:
        sys.stderr.write(f"tests/netns DID NOT RUN: this machine does not allow {right}.\n")
        return 3
    tools = [f"{tool} (Debian: {package})" for tool, package in TOOLS.items() if not _has(tool)]
    if tools:
        sys.stderr.write(f"tests/netns needs {', '.join(tools)}.\n")
        return 1
    return 0


def _has(tool: str) -> bool:
    return shutil.which(tool) is not None


if __name__ == "__main__":
    sys.exit(main())
