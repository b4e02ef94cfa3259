"""Hive's services on this machine: installed, brought up to this release, and removed again.

What a person changed stays: hive.env once it is there, a unit that is not as Hive wrote it, and
whether a unit that was enabled once still is.
"""

from __future__ import annotations

import contextlib
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hive.deploy import manager
from hive.deploy.files import (
    GPU,
    SERVICES,
    TARGET,
    Places,
    Record,
    shipped,
    unit_files,
    written_whole,
)

NEXUS, SPORE, FLOWER = SERVICES
FIRST_SPORE = "spore-1"
GPU_DEVICE = Path("/dev/nvidiactl")


@dataclass(slots=True)
class Done:
    """What was done, or with `dry_run` would be; units by their names, files by their paths.

    kept: files that a person made or changed. running: units that ran before. notes: sentences
    about what a person should look at.
    """

    program: str | None = None
    dry_run: bool = False
    user_made: bool = False
    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    enabled: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def install(
    program: Path,
    *,
    spores: Sequence[str] | None = None,
    nexus: bool | None = None,
    flower: bool = False,
    gpu: bool | None = None,
    dry_run: bool = False,
    places: Places | None = None,
) -> Done:
    """Write the units for a program, enable them, and make the user and the settings they need.

    spores: names, which are enabled in any case. nexus, flower: whether these are enabled too.
    gpu: whether spores may open NVIDIA's devices.
    What is None is as it was before; the first time there is a nexus, one spore, and devices where
    the machine has some.

    Nothing is started. What was done before is not done again.
    Raises: HiveError; then no file has changed, or all have, and the next call does the rest.
    """
    places = places or Places()
    record = Record.read(places.record)
    drop_in = places.drop_ins / GPU
    opens = GPU_DEVICE.exists() or drop_in.exists() if gpu is None else gpu
    texts = unit_files(places, program, gpu=opens)
    kept = [path for path, text in texts.items() if _is_edited(path, text, record)]
    fresh = {path: text for path, text in texts.items() if path not in kept}
    changed = {path: text for path, text in fresh.items() if not _holds(path, text)}
    closed = [] if opens or not drop_in.exists() or not record.knows(drop_in) else [drop_in]
    masked = {path.name for path in kept if path.is_symlink()}
    wanted = _wanted(places, record, spores, nexus=nexus, flower=flower)
    done = Done(
        program=str(program),
        dry_run=dry_run,
        user_made=not manager.has_user(),
        written=[str(path) for path in changed],
        unchanged=[str(path) for path in fresh if path not in changed],
        kept=[str(path) for path in kept],
        removed=[str(path) for path in closed],
        enabled=[unit for unit in wanted if _file_of(unit) not in masked],
    )
    makes_settings = not places.env_file.exists()
    (done.written if makes_settings else done.kept).insert(0, str(places.env_file))
    done.notes += [] if makes_settings or done.user_made else _doubts(places.env_file)
    if not dry_run:
        with _uninterrupted():
            for path in closed:
                path.unlink()
            _write(places, record, fresh, changed, user=done.user_made, settings=makes_settings)
            done.running = manager.running()
            _enable(places, record, done.enabled)
    return done


def _enable(places: Places, record: Record, units: Sequence[str]) -> None:
    if units:
        manager.enable(units)
        enabled = [*record.enabled, *(unit for unit in units if unit not in record.enabled)]
        Record.read(places.record).model_copy(update={"enabled": enabled}).write(places.record)


def remove(*, dry_run: bool = False, places: Places | None = None) -> Done:
    """Stop the services and take away the files that `install` wrote and nobody changed since.

    hive.env, the data and the user stay. Stopping waits for the spores' tasks, as always.
    Raises: HiveError.
    """
    places = places or Places()
    record = Record.read(places.record)
    there = [path for path in map(Path, record.files) if path.exists() or path.is_symlink()]
    mine = [path for path in there if record.knows(path)]
    done = Done(
        dry_run=dry_run,
        removed=[str(path) for path in mine],
        kept=[str(path) for path in (*there, places.env_file) if path not in mine],
        disabled=_linked(places, record) if record.files else [],
    )
    if not record.files:
        done.kept = []
        return done
    if dry_run:
        return done
    done.stopped = manager.running()
    if done.stopped:
        manager.stop(done.stopped)
    with _uninterrupted():
        if there_still := [u for u in done.disabled if (places.units / _file_of(u)).exists()]:
            manager.disable(there_still)
        for link in places.wants.glob("hive-*.service"):
            link.unlink()  # of a unit whose file somebody took away
        for path in mine:
            path.unlink()
        with contextlib.suppress(OSError):  # a drop-in of somebody's is in it
            places.drop_ins.rmdir()
        places.record.unlink()
        manager.reload()
        manager.forget_failures(done.stopped)
    return done


def _wanted(
    places: Places,
    record: Record,
    spores: Sequence[str] | None,
    *,
    nexus: bool | None,
    flower: bool,
) -> list[str]:
    """The units to enable: those that never were, so that who disabled one since, or did without
    one the first time, need not say so again; and those of the spores that are named now.
    """
    is_first = TARGET not in record.enabled
    has_nexus = is_first if nexus is None else nexus
    names = ((FIRST_SPORE,) if is_first else ()) if spores is None else spores
    once = [TARGET, *([NEXUS] if has_nexus else []), *([FLOWER] if flower else [])]
    named = [f"hive-spore@{name}.service" for name in dict.fromkeys(names)]
    return [unit for unit in once if unit not in record.enabled] + [
        unit for unit in named if not (places.wants / unit).is_symlink()
    ]


def _doubts(env_file: Path) -> list[str]:
    """What is wrong with the rights of a hive.env that somebody made."""
    found, group = env_file.stat(), manager.users_group()
    mend = f"chgrp {group} {env_file}; chmod 640 {env_file}"
    if found.st_mode & stat.S_IRWXO:
        return [f"{env_file} may hold a password, and everybody can read it: {mend}"]
    if found.st_gid != group or not found.st_mode & stat.S_IRGRP:
        return [f"The services may be unable to read {env_file}: {mend}"]
    return []


def _write(
    places: Places,
    record: Record,
    fresh: dict[Path, str],
    changed: dict[Path, str],
    *,
    user: bool,
    settings: bool,
) -> None:
    """Make the user, then all files at once.

    The record is on the disk before the units are, and knows them as they were, too: interrupted
    in between, none of them looks like edited.
    """
    with written_whole(changed):
        if user:
            manager.make_user()
        if settings:
            example = {places.env_file: shipped("hive.env.example")}
            with written_whole(example, 0o640, manager.users_group()):
                pass
        record.adding(fresh).write(places.record)
    record = Record.read(places.record)
    exact = Record(enabled=record.enabled).adding(fresh)
    Record(files=record.files | exact.files, enabled=record.enabled).write(places.record)
    manager.reload()


def _is_edited(path: Path, text: str, record: Record) -> bool:
    """Whether a person made the file, changed it, or masked the unit by a link."""
    if path.is_symlink():
        return True
    return path.exists() and not _holds(path, text) and not record.knows(path)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _file_of(unit: str) -> str:
    """The file of a unit: an instance's is that of its template."""
    name, at, _ = unit.partition("@")
    return f"{name}@.service" if at else unit


def _linked(places: Places, record: Record) -> list[str]:
    """What is enabled now, of what was once, and of the spores that somebody enabled by hand."""
    links = sorted(path.name for path in places.wants.glob("hive-*.service"))
    return list(dict.fromkeys((*record.enabled, *links)))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end of these few moments."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
