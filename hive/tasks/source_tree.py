"""The files of a source tree: where a path leads, and which files below it can be scanned."""

from __future__ import annotations

import codecs
import os
import stat
import tokenize
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from hive.errors import ScanError
from hive.tasks.findings import Skipped
from hive.tasks.requirements_text import decoded, is_requirements_file

PYTHON = frozenset({".py", ".pyw"})
_LARGEST = 1024 * 1024
_SNIFFED = 8192
# Shares of control characters. Legacy encodings have as few as any text; compressed and encrypted
# data have more than ten in a hundred.
_MOST_IN_TEXT = 0.05
_MOST_IN_DAMAGED_TEXT = 0.3
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_CONTROLS = bytes(sorted({*range(32), 127} - set(b"\t\n\v\f\r\x1b")))
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
    """The files at or below `path` that can be scanned, in order, and what was not and why.

    Left out on purpose: binary files, links, lock files, virtual environments, node_modules; and,
    without being listed, the directories of version control and of tools' caches. Unread: what
    cannot be opened or is no file, links that lead nowhere, text over 1 MiB, and text that is not
    UTF-8 (a Python file may be in the encoding that it declares).
    """
    files: list[Path] = []
    skipped: list[Skipped] = []
    for candidate in _walk(path, skipped) if path.is_dir() else [path]:
        reason = _unfit(candidate, given=candidate == path)
        if reason is None:
            files.append(candidate)
        else:
            skipped.append(reason)
    return sorted(files, key=str), skipped


def text_of(file: Path) -> str:
    """The text of a file that `files_of` gave: UTF-8, or what a Python file declares, or what pip
    reads in a requirements file.

    Raises: OSError; ValueError or SyntaxError when it is no such text.
    """
    return _decoded(file, file.read_bytes())


def _decoded(file: Path, content: bytes) -> str:
    if is_requirements_file(file.name):
        return decoded(content)
    if file.suffix.lower() not in PYTHON:
        return content.decode("utf-8")
    encoding, _ = tokenize.detect_encoding(BytesIO(content).readline)
    return content.decode(encoding)


def _walk(top: Path, skipped: list[Skipped]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skipped.append(_unread(Path(error.filename), f"cannot be read: {error.strerror}"))

    for directory, names, files in os.walk(top, onerror=unreadable):
        here = Path(directory)
        kept = []
        for name in sorted(names):
            if name in _TOOL_DIRECTORIES:
                continue
            # By os.path, which says no where nothing may be looked at; Path raises.
            if name == "node_modules" or os.path.isfile(here / name / "pyvenv.cfg"):  # noqa: PTH113
                skipped.append(_left_out(here / name, "installed packages"))
            elif (here / name).is_symlink():
                skipped.append(_left_out(here / name, "a link"))
            else:
                kept.append(name)
        names[:] = kept
        yield from (here / name for name in sorted(files))


def _unfit(file: Path, *, given: bool) -> Skipped | None:
    """Why a file cannot be scanned; None when it can.

    A link is followed where the user named it himself.
    """
    if _shown(file) != str(file):
        return _unread(file, "its name is not UTF-8")
    try:
        status = file.stat() if given else file.lstat()
        if stat.S_ISLNK(status.st_mode):
            if file.exists():
                return _left_out(file, "a link")
            return _unread(file, "a link that leads nowhere")
        if not stat.S_ISREG(status.st_mode):
            return _unread(file, "not a regular file")
        with file.open("rb") as content:
            return _unscannable(file, status.st_size, content.read(_LARGEST + 1))
    except OSError as error:
        return _unread(file, f"cannot be read: {error.strerror}")


def _unscannable(file: Path, size: int, content: bytes) -> Skipped | None:
    """What is wrong with the content of a file that could be opened."""
    from detect_secrets.filters.heuristic import is_lock_file, is_non_text_file

    python = file.suffix.lower() in PYTHON
    if not python and is_lock_file(str(file)):
        return _left_out(file, "a lock file")
    if not python and is_non_text_file(file.name.lower()):
        return _left_out(file, f"{file.suffix} files are not scanned")
    for_pip = is_requirements_file(file.name) and content.startswith(_WIDE_MARKS)
    if _is_wide(content) and not for_pip:
        return _unread(file, "UTF-16, not UTF-8")
    if b"\0" in content[:_SNIFFED] and not for_pip:
        if python or _is_damaged_text(content[:_SNIFFED]):
            return _unread(file, "has NUL bytes, which no text has")
        return _left_out(file, "binary")
    if size > _LARGEST:
        return _unread(file, f"larger than 1 MiB ({size:,} bytes)")
    if not _is_readable(file, content):
        # What is wrong with a Python file, its scan says.
        if python:
            return None
        if _share_of_controls(content[:_SNIFFED]) > _MOST_IN_TEXT:
            return _left_out(file, "binary")
        return _unread(file, "not UTF-8")
    return None


def _is_readable(file: Path, content: bytes) -> bool:
    try:
        _decoded(file, content)
    except (SyntaxError, ValueError, LookupError):
        return False
    return True


def _is_wide(content: bytes) -> bool:
    """Whether it is UTF-16: it has a mark, or every other byte is NUL, as in Western text."""
    if content.startswith(_WIDE_MARKS):
        return True
    pairs = len(content[:_SNIFFED]) // 2
    sniffed = content[: 2 * pairs]
    for wide, narrow in ((sniffed[1::2], sniffed[::2]), (sniffed[::2], sniffed[1::2])):
        if pairs > 1 and wide.count(0) > 0.7 * pairs and _share_of_controls(narrow) < 0.02:
            return True
    return False


def _is_damaged_text(sniffed: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sniffed)
    except UnicodeDecodeError:
        return False
    return _share_of_controls(sniffed) <= _MOST_IN_DAMAGED_TEXT


def _share_of_controls(content: bytes) -> float:
    return 1 - len(content.translate(None, _CONTROLS)) / max(1, len(content))


def _left_out(path: Path, reason: str) -> Skipped:
    return Skipped(path=_shown(path), reason=reason)


def _unread(path: Path, reason: str) -> Skipped:
    return Skipped(path=_shown(path), reason=reason, unread=True)


def _shown(path: Path) -> str:
    """A path as JSON can carry it."""
    return str(path).encode("utf-8", "backslashreplace").decode()
