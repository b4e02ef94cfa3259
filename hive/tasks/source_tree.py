"""The files of a source tree: where a path leads, and which files below it can be scanned."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hive.errors import ScanError
from hive.tasks.findings import Skipped

_LARGEST = 1024 * 1024
_SNIFFED = 8192
# What version control and tools keep for themselves; nobody wrote it, so it is left out without a
# word. A hive that runs in the scanned tree has its data and its password in .hive.
_TOOL_DIRECTORIES = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".hive",
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".nox",
    }
)


def find_path(path: str, root: str | None) -> Path:
    """The absolute path that `path` means.

    An absolute path is taken as it is where it exists, and looked for under `root` where it does
    not ("/src" is then root/src). A relative path is looked for under `root`, then under the
    working directory. Under `root` a path never leads out of it, neither by `..` nor by a link.

    Raises: ScanError when there is no such path.
    """
    # Path.resolve() would follow links, and findings name the file as the user does.
    as_given = Path(os.path.abspath(path))  # noqa: PTH100
    below = _below(path, root) if root else None
    # By os.path, since the text may be no path at all.
    order = (as_given, below) if os.path.isabs(path) else (below, as_given)  # noqa: PTH117
    for candidate in order:
        # For what cannot be a path (a NUL, an endless name) Path.exists raises; this one is false.
        if candidate is not None and os.path.exists(candidate):  # noqa: PTH110
            return candidate
    where = f", neither as it is nor under {root!r}" if root else ""
    raise ScanError(f"There is no file or directory {path!r}{where} on this node.")


def _below(path: str, root: str) -> Path | None:
    try:
        base = Path(root).resolve()
        inside = (base / path.lstrip("/")).resolve()
    except (OSError, ValueError):
        return None
    return inside if inside.is_relative_to(base) else None


def files_of(path: Path) -> tuple[list[Path], list[Skipped]]:
    """The files at or below `path` that can be scanned, in order, and what was left out and why.

    Left out: binary files, files over 1 MiB, links, virtual environments, node_modules; and,
    without being listed, the directories of version control and of tools' caches.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []
    for candidate in _walk(path, skipped) if path.is_dir() else [path]:
        reason = _unfit(candidate, given=candidate == path)
        if reason is None:
            files.append(candidate)
        else:
            skipped.append(Skipped(path=_shown(candidate), reason=reason))
    return sorted(files, key=str), skipped


def _walk(top: Path, skipped: list[Skipped]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skipped.append(
            Skipped(path=_shown(Path(error.filename)), reason=f"cannot be read: {error.strerror}")
        )

    for directory, names, files in os.walk(top, onerror=unreadable):
        here = Path(directory)
        kept = []
        for name in sorted(names):
            if name in _TOOL_DIRECTORIES:
                continue
            if name == "node_modules" or (here / name / "pyvenv.cfg").is_file():
                skipped.append(Skipped(path=_shown(here / name), reason="installed packages"))
            elif (here / name).is_symlink():
                skipped.append(Skipped(path=_shown(here / name), reason="a link"))
            else:
                kept.append(name)
        names[:] = kept
        yield from (here / name for name in sorted(files))


def _unfit(file: Path, *, given: bool) -> str | None:
    """Why a file cannot be scanned; None when it can.

    A link is followed where the user named it himself.
    """
    if _shown(file) != str(file):
        return "its name is not UTF-8"
    try:
        status = file.stat() if given else file.lstat()
        if stat.S_ISLNK(status.st_mode):
            return "a link"
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size > _LARGEST:
            return f"larger than 1 MiB ({status.st_size:,} bytes)"
        with file.open("rb") as content:
            return "binary" if b"\0" in content.read(_SNIFFED) else None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _shown(path: Path) -> str:
    """A path as JSON can carry it."""
    return str(path).encode("utf-8", "backslashreplace").decode()
