"""Fetches the tests of kombu and Celery: `python -m tests.conformance.sources`.

They are in the source distributions of the very versions that requirements.lock holds; pip verifies
them by the lock's hashes. What is unpacked lies in a folder that git ignores: nothing of it becomes
a part of this repository.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
UPSTREAM = REPOSITORY / ".upstream"
PACKAGES = ("celery", "kombu")


def folder_of(package: str) -> Path | None:
    """The folder that holds a package's `t`; None when it was not fetched, or for another version
    than the lock's.
    """
    folder = UPSTREAM / _pin(package)[0].replace("==", "-")
    return folder if (folder / "t").is_dir() else None


def _pin(package: str) -> list[str]:
    """What the lock says about a package: `name==version`, then its hashes."""
    lines = iter((REPOSITORY / "requirements.lock").read_text().splitlines())
    found = next(line for line in lines if line.startswith(f"{package}=="))
    pin = [found]
    while found.endswith("\\"):
        found = next(lines)
        pin.append(found.strip())
    return [part.removesuffix("\\").strip() for part in pin]


def fetch(package: str) -> None:
    """Download and unpack, unless it is there. Raises CalledProcessError when pip cannot get it."""
    if folder_of(package) is not None:
        return
    UPSTREAM.mkdir(exist_ok=True)
    # Beside its destination, and renamed: a fetch that is interrupted leaves nothing that looks
    # complete.
    with tempfile.TemporaryDirectory(dir=UPSTREAM) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(" ".join(_pin(package)) + "\n")
        # pip looks at the metadata of a source distribution by its build backend: the locked one,
        # not one fetched on the way.
        options = [
            "--no-deps",
            "--require-hashes",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
            "--no-input",
            "--retries",
            "1",
            "-qq",
        ]
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            *options,
            "--dest",
            scratch,
        ]
        subprocess.run([*command, "--requirement", str(wanted)], check=True)
        archive = next(Path(scratch).glob("*.tar.gz"))
        with tarfile.open(archive) as source:
            root = archive.name.removesuffix(".tar.gz")
            # Not the package itself: the tests are to run with the installed one.
            source.extractall(
                scratch,
                [member for member in source if member.name.startswith(f"{root}/t/")],
                filter="data",
            )
        Path(scratch, root).rename(UPSTREAM / root)


def main() -> None:
    for package in PACKAGES:
        try:
            fetch(package)
        except subprocess.CalledProcessError:
            print(
                f"{package}'s tests could not be fetched; `make test` leaves them out.",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
