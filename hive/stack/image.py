"""Images: those of others are fetched where they are missing, Hive's own is built from the package
that runs, so that no checkout is needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import hive
from hive.errors import InvalidInputError
from hive.stack.directory import packaged
from hive.stack.engine import Engine
from hive.stack.errors import StackError
from hive.stack.said import error_of, last_line

REPOSITORY = "venom-hive"
BUILT_WITHIN = 3600.0
FETCHED_WITHIN = 1800.0
WHEELS = "wheels"
"""The folder of the context from which the Dockerfile installs without a network."""

Say = Callable[[str], None]


def is_ours(image: str) -> bool:
    """Whether it is a name of the image that Hive builds: a local one, which no registry has."""
    return image.partition(":")[0] == REPOSITORY


def is_here(engine: Engine, image: str) -> bool:
    """Whether the engine has it."""
    return engine.docker("image", "inspect", "--format", "{{.Id}}", image).code == 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from."""

    build: bool = False
    """Build Hive's image also where it is there."""
    wheels: Path | None = None
    """A folder of wheels for the build, on a machine without a network."""
    applications: str | None = None
    """HIVE_IMAGE: an application's on top of Hive's."""


def provide(
    engine: Engine, resolved: Mapping[str, Any], options: list[str], source: Source, say: Say
) -> None:
    """See that every service's image is there, so that `up` needs nothing from anywhere.

    options: compose's, for services that are built from the stack's directory.
    Raises: HiveError saying which is missing and why it cannot be had.
    """
    services = resolved["services"]
    images = sorted({str(one["image"]) for one in services.values() if one.get("image")})
    for image in images:
        if is_ours(image) and (source.build or not is_here(engine, image)):
            build_ours(engine, image, source.wheels, say)
    for name, service in services.items():
        image = str(service.get("image") or "")
        if is_ours(image) or (image and is_here(engine, image) and not source.build):
            continue
        if service.get("build"):
            say(f"Building the image of {name} …")
            doing = f"The image of service {name} cannot be built"
            engine.compose(*options, "build", str(name), doing=doing, within=BUILT_WITHIN)
        elif not is_here(engine, image):
            if image == source.applications and not names_registry(image):
                raise StackError(
                    f"The image {image} (HIVE_IMAGE) is not on this machine: build it, or give its "
                    "name with its registry; a name without one is fetched from nowhere."
                )
            _fetch(engine, image, say)


def names_registry(image: str) -> bool:
    """Whether the name says where the image is to be had. What does not might be anybody's of that
    name at the public registry.
    """
    host, slash, _ = image.partition("/")
    return bool(slash) and (host == "localhost" or "." in host or ":" in host)


def _fetch(engine: Engine, image: str, say: Say) -> None:
    say(f"Fetching the image {image} …")
    said = engine.docker("pull", "--quiet", image, within=FETCHED_WITHIN)
    if said.code:
        raise StackError(
            f"The image {image} is not on this machine and cannot be fetched "
            f"({last_line(said.all) or 'no reason given'}): give the engine a way to its registry, "
            "or load it (`docker load`)."
        )


def build_ours(engine: Engine, image: str, wheels: Path | None, say: Say) -> None:
    """Build Hive's image. Raises: HiveError with the line that tells why it cannot be."""
    if wheels is not None and not any(wheels.glob("*.whl")):
        raise InvalidInputError(f"{wheels} is no folder with wheels in it.")
    say(f"Building the image {image}; that takes minutes the first time …")
    with build_context(wheels) as context:
        said = engine.docker(
            *("build", "--pull=false", "--force-rm", "--tag", image, str(context)),
            within=BUILT_WITHIN,
        )
    if said.code:
        raise error_of(said.all, f"The image {image} is not here and cannot be built")


@contextlib.contextmanager
def build_context(wheels: Path | None = None) -> Iterator[Path]:
    """A folder with all that the Dockerfile needs: the package's files and the package itself.

    Yields: the folder; it is gone afterwards.
    Raises: StackError, for instance for a full disk.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="hive-image-") as made:
            _assemble(Path(made), wheels)
            yield Path(made)
    except OSError as error:
        raise StackError(
            f"The files of the image cannot be put together in {tempfile.gettempdir()} ({error})."
        ) from None


def _assemble(context: Path, wheels: Path | None) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
    with resources.as_file(packaged()) as files:
        shutil.copytree(files, context, ignore=ignored, dirs_exist_ok=True)
    package = Path(hive.__file__).parent
    shutil.copytree(package, context / "hive", ignore=ignored)
    if wheels is not None:
        shutil.copytree(
            wheels, context / WHEELS, copy_function=_link_or_copy, ignore=_all_but_wheels
        )


def _all_but_wheels(_directory: str, names: list[str]) -> list[str]:
    """A few packages come as source only, and are among the wheels as such."""
    return [name for name in names if not name.endswith((".whl", ".tar.gz", ".zip"))]


def _link_or_copy(source: str, target: str) -> None:
    """Wheels are a hundred megabytes and more, and only read."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
