"""A machine that systemd runs: a container of systemd-nspawn, booted from layers that stay as they
are.

All that it needs is mounted in a namespace of its own, and ends with its processes, also when the
test run is killed. Commands go in by nsenter.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

from tests.netns.network import _enter
from tests.systemd import image
from tests.systemd.groups import own_groups

T = TypeVar("T")
PATIENCE = 120
POLL = 0.2
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

# All processes of a machine are killed with the one that holds their namespace, and that one with
# the test run.
ENDS_WITH_US = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

# $1 is an empty folder, $2 the layers, $3 the source of Hive, $4 the machine's name; then come its
# control groups. /run is another one, since nspawn would leave folders in this machine's.
BOOT = """
set -e
folder=$1 layers=$2 source=$3 name=$4
shift 4
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=$layers,upperdir=$folder/upper,workdir=$folder/work" overlay \
    "$folder/root"
rm -f "$folder/root/etc/machine-id"
for group in "$@"; do echo $$ > "$group/cgroup.procs"; done
exec systemd-nspawn --directory="$folder/root" --machine="$name" --boot \
    --register=no --keep-unit --private-network --console=read-only --bind-ro="$source:/mnt"
"""

# nspawn gives a machine without a user namespace the hierarchies of version 1 to read only; these
# are its own groups, though. systemd looks at its controllers when it starts, or starts again.
OPEN_GROUPS = """
set -e
grep ' - cgroup cgroup ' /proc/self/mountinfo | while read -r _ _ _ _ place flags rest; do
    options=${rest##* }
    controllers=$(echo "$options" | sed -E 's/(^|,)(rw|ro)(,|$)/,/; s/^,//; s/,$//')
    case $flags in ro,*) ;; *) continue ;; esac
    case $controllers in *cpu | *cpuacct | memory | pids | devices) ;; *) continue ;; esac
    umount "$place"
    mount -t cgroup -o "rw,nosuid,nodev,noexec,$controllers" cgroup "$place"
    touch /run/opened
done
if [ -e /run/opened ]; then systemctl daemon-reexec; fi
"""


def wait_until(condition: Callable[[], T], what: str, deadline: float = PATIENCE) -> T:
    """As that of the harness, but less often: each look at a machine starts programs there."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(POLL)
    return value


class Machine:
    """A booted machine."""

    def __init__(self, leader: int) -> None:
        """leader: its process 1, as this machine numbers it."""
        self.leader = leader

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """A command there, as root in `/`, with nothing of this process's environment."""
        inside = ("nsenter", "--target", str(self.leader), *NAMESPACES)
        environment = (
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "HOME=/root",
        )
        return subprocess.Popen(
            [*inside, *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def done(self, *command: str, within: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """A command there, and how it ended."""
        process = self.start(*command)
        try:
            out, err = process.communicate(timeout=within)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, *command: str, within: float = PATIENCE) -> str:
        """What a command there says that has to succeed."""
        done = self.done(*command, within=within)
        assert done.returncode == 0, (
            f"{' '.join(command)}: {done.returncode} {done.stdout}{done.stderr}"
        )
        return done.stdout

    def path(self, name: str) -> Path:
        """A file of it, as this process sees it."""
        return Path(f"/proc/{self.leader}/root", name.lstrip("/"))

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value").strip()

    def main_pid(self, unit: str) -> int:
        """As the machine numbers it; 0 where there is none."""
        return int(self.show(unit, "MainPID"))

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        self.run("kill", f"-{int(number)}", str(pid))

    def journal(self, unit: str, *options: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, *options)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is on the machine's network."""
        with Path("/proc/thread-self/ns/net").open() as before:
            with Path(f"/proc/{self.leader}/ns/net").open() as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine with Hive in /opt/hive; nothing of it is left at the end."""
    name = f"hive-{secrets.token_hex(3)}"
    layers = ":".join(map(str, image.layers()))
    (folder / "source").mkdir()
    (folder / "machine").mkdir()
    image.source(folder / "source")
    places = map(str, (folder / "machine", layers, folder / "source", name))
    with own_groups(name) as groups, (folder / "console").open("wb") as console:
        command = [*ENDS_WITH_US, "sh", "-c", BOOT, "sh", *places, *map(str, groups)]
        holder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, process_group=0
        )
        try:
            yield _ready(holder, folder / "console")
        finally:
            _end(holder)


def _ready(holder: subprocess.Popen[bytes], console: Path) -> Machine:
    """The machine, once it has started and Hive is installed."""

    def leader() -> int | None:
        assert holder.poll() is None, console.read_text(errors="replace")
        below = psutil.Process(holder.pid).children(recursive=True)
        return next((one.pid for one in below if one.name() == "systemd"), None)

    machine = Machine(wait_until(leader, "the machine has a process 1"))
    up = ("systemctl", "is-system-running", "--wait")
    wait_until(lambda: machine.done(*up).stdout.strip() == "running", "it has started")
    machine.run("sh", "-c", OPEN_GROUPS)
    machine.run("ip", "link", "set", "lo", "up")
    offline = "--no-index --no-deps --no-build-isolation --root-user-action=ignore"
    pip = f"{image.VENV}/bin/python -m pip install -q {offline} /tmp/hive"
    machine.run("sh", "-c", f"cp -a /mnt /tmp/hive && {pip} && rm -r /tmp/hive")
    return machine


def _end(holder: subprocess.Popen[bytes]) -> None:
    """Pull the plug: with the namespace of its processes all mounts of the machine end, too."""
    holder.kill()
    holder.wait()
