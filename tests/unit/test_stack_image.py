"""What the image is built from: the package alone, of a checkout or of an installed wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from hive.errors import InvalidInputError
from hive.stack.engine import Engine
from hive.stack.image import build_context, build_ours, is_ours, names_registry

ROOT = Path(__file__).parents[2]

# Run by another installation of Hive than the one that runs this test.
LIST = """
import sys
from hive.stack.image import build_context
with build_context() as context:
    files = sorted(path for path in context.rglob('*') if path.is_file())
    print(*(path.relative_to(context) for path in files), sep='\\n')
"""


def files_of(context: Path) -> dict[str, bytes]:
    return {
        path.relative_to(context).as_posix(): path.read_bytes()
        for path in context.rglob("*")
        if path.is_file()
    }


def test_the_context_has_what_the_dockerfile_copies_and_ignores_nothing_of_it() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert "requirements.lock" in copied
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    with build_context() as context:
        found = files_of(context)
        assert not any(path.is_symlink() for path in context.rglob("*"))
    for name in copied:
        if name not in (".", "wheels*"):
            assert found[name] == (ROOT / name).read_bytes()
            assert any(fnmatch(name, pattern) for pattern in let_in)
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        assert found[name] == (ROOT / name).read_bytes()
    assert "hive/broker/channel/lua/publish.lua" in found
    assert found["hive/stack/files/docker-compose.yml"] == found["docker-compose.yml"]
    assert not [name for name in found if "__pycache__" in name]


def test_the_context_is_gone_afterwards() -> None:
    with build_context() as context:
        assert context.is_dir()
    assert not context.exists()


def test_wheels_come_along_as_they_are(tmp_path: Path) -> None:
    for name in ("one.whl", "two.tar.gz", "notes.txt"):
        (tmp_path / name).write_text(name)
    with build_context(tmp_path) as context:
        assert sorted(path.name for path in (context / "wheels").iterdir()) == [
            "one.whl",
            "two.tar.gz",
        ]


def test_a_folder_without_wheels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no folder with wheels in it"):
        build_ours(Engine(("docker", "compose")), "venom-hive:1", tmp_path, lambda _line: None)


@pytest.mark.parametrize(
    ("image", "ours"),
    [
        ("venom-hive:0.1.0", True),
        ("venom-hive", True),
        ("registry.example/venom-hive:1", False),
        ("shop:1", False),
        ("", False),
    ],
)
def test_only_a_local_name_of_hives_image_is_built(image: str, ours: bool) -> None:
    assert is_ours(image) is ours


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("shop:1", False),
        ("acme/shop:1", False),
        ("registry.example/shop", True),
        ("localhost/shop:1", True),
        ("localhost:5000/shop", True),
        ("10.0.0.1:5000/acme/shop:1", True),
    ],
)
def test_whether_an_image_is_named_with_its_registry(image: str, named: bool) -> None:
    assert names_registry(image) is named


@pytest.mark.slow
def test_an_installed_wheel_has_the_same_without_a_checkout(tmp_path: Path) -> None:
    with build_context() as context:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        build += ["--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(context)]
        subprocess.run(build, check=True, capture_output=True, timeout=100)
        expected = {
            name
            for name in files_of(context)
            if not name.startswith(("build/", "venom_hive.egg-info/"))
        }
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    environment = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": os.environ["PATH"]}
    told = subprocess.run(
        [sys.executable, "-c", LIST],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(told.stdout.split()) == expected
