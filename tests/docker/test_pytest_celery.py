"""A project that tests with pytest-celery: its own kind of containers, with Hive in the workers."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docker import images
from tests.docker.engine import Engine

PROJECT = Path(__file__).with_name("pytest_celery_project.py")

# A pytest without this repository's settings, which keep the plugin out, and without its conftests.
PYTEST = (
    "-m",
    "pytest",
    "-c",
    "/dev/null",
    "--noconftest",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
)


def test_a_chord_ends_in_pytest_celerys_workers_also_when_one_is_killed(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    """Where the engine is, since the tests speak to the containers' own addresses."""
    told = {"PYTEST_CELERY_IMAGE": image, "PYTEST_CELERY_REDIS": images.REDIS}
    where = ("--rootdir", str(PROJECT.parents[2]), "--basetemp", str(tmp_path / "project"))
    pytest = (sys.executable, *PYTEST, *where, "--timeout", "400", str(PROJECT))
    done = engine.inside(*pytest, env=told, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    assert " 2 passed" in done.stdout
    left = engine.docker("ps", "--all", "--quiet", "--filter", "label=creator=pytest-docker-tools")
    assert left.stdout == ""
