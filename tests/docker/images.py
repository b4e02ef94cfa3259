"""The image, as `make image` builds it, on Debian instead of what Docker Hub has."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

from tests import base
from tests.docker.engine import Engine

REPOSITORY = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
REDIS = "redis:7.4-bookworm"
"""What the Dockerfile and the compose file name. Here both are one Debian with Python and Redis."""

STAGES = {name: f"venom-hive-{name}:1" for name in ("dependencies", "runtime")}
"""Those of the Dockerfile that change only with the locks."""

IMAGE = (
    f"venom-hive:{tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())['project']['version']}"
)
SHOP = "shop:1"
"""The application in `shop.py` on top of it."""

# What a checkout may have and no engine is to get; each is planted with this text.
PLANTED = (".env", "tls/ca.key", ".git/config", "hive/hive.env")
SECRET = "planted-secret-that-is-in-no-layer"

# What is not worth copying, and may be large.
LEFT_OUT = (".venv", ".git", ".upstream", ".test-base", ".hypothesis", ".*_cache", "__pycache__")


def load_layers(engine: Engine) -> None:
    """Debian under the names that would be fetched from Docker Hub, and what Hive needs on top of
    it, which a build then finds done.
    """
    made_of = (base.root().name, base.wheels().name, (REPOSITORY / "Dockerfile").read_text())
    name = f"layers-{base.sum_of(repr(made_of).encode())}"
    layers = base.made_once(name, lambda to: _save_layers(engine, to))
    engine.docker("load", "--input", str(layers / "images.tar"))


def _save_layers(engine: Engine, to: Path) -> None:
    packed = ["tar", "-C", str(base.root()), "--exclude=./dev/*", "-c", "."]
    with subprocess.Popen(packed, stdout=subprocess.PIPE) as tar:
        engine.docker("import", "-", BASE, stdin=tar.stdout)
    engine.docker("tag", BASE, REDIS)
    where = context(to)
    for stage, tag in STAGES.items():
        build = ["build", "--network", "none", "--target", stage, "--tag", tag]
        engine.docker(*build, str(where), timeout=900)
    shutil.rmtree(where)
    where.mkdir()
    engine.docker("save", "--output", str(where / "images.tar"), BASE, REDIS, *STAGES.values())


def context(to: Path) -> Path:
    """A checkout with a folder of wheels, and with secrets that are to stay where they are."""
    shutil.copytree(REPOSITORY, to, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.rmtree(to / "wheels", ignore_errors=True)
    subprocess.run(["cp", "-r", str(base.wheels()), str(to / "wheels")], check=True)
    for name in PLANTED:
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"REDIS_PASSWORD={SECRET}\n")
    return to


def build(engine: Engine, directory: Path) -> None:
    """`make image`, and on top of it an application, both without a network."""
    where = context(directory / "context")
    cached = " ".join(f"--cache-from={tag}" for tag in STAGES.values())
    engine.run("make", "--touch", "wheels", cwd=where)
    engine.run("make", "image", f"DOCKER_BUILD={cached}", cwd=where, timeout=900)
    shutil.rmtree(where)
    shop = directory / "shop"
    shop.mkdir()
    shutil.copy(Path(__file__).with_name("shop.py"), shop)
    (shop / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY shop.py /app/\n")
    engine.docker("build", "--network", "none", "--tag", SHOP, str(shop))
