"""The files of a machine that runs Hive as services: this release's, and which of those that are
there are Hive's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hive.errors import HiveError

SHIPPED = Path(__file__).with_name("units")
SHIPPED_PROGRAM = "/usr/bin/hive"
SERVICES = ("hive-nexus.service", "hive-spore@.service", "hive-flower.service")
TARGET = "hive.target"
GPU = "gpu.conf"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on a machine; root: another one than `/` for tests."""

    root: Path = Path("/")

    @property
    def units(self) -> Path:
        return self.root / "etc/systemd/system"

    @property
    def drop_ins(self) -> Path:
        return self.units / "hive-spore@.service.d"

    @property
    def wants(self) -> Path:
        """What hive.target starts."""
        return self.units / "hive.target.wants"

    @property
    def env_file(self) -> Path:
        return self.root / "etc/hive/hive.env"

    @property
    def record(self) -> Path:
        return self.root / "etc/hive/deployed.json"


class Record(BaseModel):
    """What `hive deploy systemd` did here, kept beside hive.env.

    files: the SHA-256 of each file as it was written. enabled: the units that were enabled once.
    """

    files: dict[str, list[str]] = {}
    enabled: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises: HiveError where it is there and cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError:
            raise HiveError(
                f"{path} cannot be read. Delete it, and units that are those of this release are "
                "taken for Hive's own, others for edited ones."
            ) from None

    def write(self, path: Path) -> None:
        with written_whole({path: self.model_dump_json(indent=2) + "\n"}):
            pass

    def knows(self, path: Path) -> bool:
        """Whether the file at `path` is as Hive wrote it."""
        return not path.is_symlink() and _sum(path.read_bytes()) in self.files.get(str(path), [])

    def adding(self, texts: Mapping[Path, str]) -> Record:
        """The record that knows both: these files, and what was there before."""
        files = {path: list(sums) for path, sums in self.files.items()}
        for path, text in texts.items():
            sums = files.setdefault(str(path), [])
            sums += [digest for digest in [_sum(text.encode())] if digest not in sums]
        return Record(files=files, enabled=self.enabled)


def shipped(name: str) -> str:
    """A file of this release."""
    return (SHIPPED / name).read_text()


def unit_files(places: Places, program: Path, *, gpu: bool) -> dict[Path, str]:
    """This release's units, with that program in them."""
    texts = {
        places.units / name: shipped(name).replace(SHIPPED_PROGRAM, str(program))
        for name in (*SERVICES, TARGET)
    }
    return texts | ({places.drop_ins / GPU: shipped(GPU)} if gpu else {})


@contextlib.contextmanager
def written_whole(texts: Mapping[Path, str], mode: int = 0o644, group: int = 0) -> Iterator[None]:
    """Write files, each whole or not at all; all appear at the end of the context.

    Before that they lie beside their places under other names: a full disk, or an error inside the
    context, changes nothing.
    """
    drafts = {path: path.with_name(f".{path.name}.new") for path in texts}
    made: list[Path] = []
    try:
        for path, draft in drafts.items():
            made += _made_folders(path.parent)
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(texts[path])
                file.flush()
                os.fsync(descriptor)
                os.fchmod(descriptor, mode)
                if group:
                    os.fchown(descriptor, 0, group)
        yield
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # somebody has put something into it
                folder.rmdir()
        raise


def _made_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it. Returns: those that were not there, the highest first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()][::-1]
    for one in missing:
        one.mkdir(mode=0o755)
        one.chmod(0o755)  # whatever the caller's umask is
    return missing


def _sum(content: bytes) -> str:
    return sha256(content).hexdigest()
