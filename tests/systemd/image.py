"""What a machine is made of: the Debian root, a venv with Hive's libraries, and Hive's source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests import base

VENV = "/opt/hive"

# Run in a mount namespace of its own, so that no mount outlives it: $1 is the root, $2 the wheels,
# $3 where the locks are, $4 where the layer is to be.
INSTALL = f"""
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
mkdir /mnt/root/mnt/wheels /mnt/root/mnt/locks
mount --bind -o ro "$2" /mnt/root/mnt/wheels
mount --bind -o ro "$3" /mnt/root/mnt/locks
mount -t proc proc /mnt/root/proc
chroot /mnt/root /bin/sh -ec '
    python3 -m venv {VENV}
    offline="--no-index --find-links /mnt/wheels --no-build-isolation --require-hashes"
    for lock in requirements-build.lock requirements.lock; do
        {VENV}/bin/python -m pip install -q $offline -r /mnt/locks/$lock
    done
'
mkdir "$4"
cp -a /mnt/upper/opt "$4"
"""


def layers() -> list[Path]:
    """Folders of an overlay, the uppermost first: the libraries in their venv, and the root. Never
    change them.
    """
    wheels, root = base.wheels(), base.root()
    venv = base.made_once(f"venv-{root.name}-{wheels.name}", _install)
    return [venv, root]


def source(to: Path) -> None:
    """The checkout's files, those that git does not know yet too."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(listed, cwd=base.REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, named.stdout.split("\0")):
        path = base.REPOSITORY / name
        if path.is_symlink() or path.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to / name, follow_symlinks=False)


def _install(to: Path) -> None:
    where = (base.root(), base.wheels(), base.REPOSITORY, to)
    command = ["unshare", "--mount", "sh", "-c", INSTALL, "sh", *map(str, where)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"The machine's venv could not be made: {done.stdout}{done.stderr}")
