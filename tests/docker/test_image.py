"""Hive's image."""

from __future__ import annotations

import subprocess

from tests.docker import images
from tests.docker.engine import Engine

LIMITED = ("--rm", "--network", "none", "--cap-drop", "ALL")


def run(engine: Engine, image: str, *command: str, **options: object) -> str:
    """What a program says in a container of the image."""
    name, *arguments = command
    entry = ("--entrypoint", name, image)
    return engine.docker("run", *LIMITED, *entry, *arguments, **options).stdout


def test_it_is_the_command_hive_as_a_user_without_rights(engine: Engine, image: str) -> None:
    told = engine.docker("run", *LIMITED, image).stdout
    assert "Usage: hive" in told
    assert run(engine, image, "id", "-u").strip() == "10001"
    [known] = engine.inspect(image)
    assert known["Config"]["Entrypoint"] == ["dumb-init", "--single-child", "--", "hive"]
    assert known["Config"]["User"] == "10001:10001"


def test_what_it_needs_is_there_and_fits(engine: Engine, image: str) -> None:
    assert "No broken requirements" in run(engine, image, "python3", "-m", "pip", "check")
    found = run(engine, image, "python3", "-c", "import hive, flower, pynvml, celery; print(1)")
    assert found.strip() == "1"


def test_only_its_home_and_tmp_can_be_written_to(engine: Engine, image: str) -> None:
    look = ("find", "/", "-xdev", "-writable", "!", "-type", "l")
    found = run(engine, image, *look, check=False)  # it may not look everywhere
    places = {line for line in found.splitlines() if not line.startswith("/proc/")}
    assert places == {"/tmp", "/var/lib/hive"}


def test_no_secret_of_the_checkout_is_in_a_layer(engine: Engine, image: str) -> None:
    """The checkout that it was built from had some, in files that no image needs."""
    secret, known = images.SECRET.encode(), b"Turns Celery workers"
    assert found_in_layers(engine, image, secret, known) == {known}
    assert images.SECRET not in engine.docker("history", "--no-trunc", image).stdout


def found_in_layers(engine: Engine, image: str, *texts: bytes) -> set[bytes]:
    """Which of the texts are anywhere in an image, whose layers are saved as they are."""
    found, before = set(), b""
    saving = ("docker", "save", image)
    with subprocess.Popen(saving, stdout=subprocess.PIPE, env=engine.environment) as saved:
        while block := saved.stdout.read(1 << 20):
            found |= {text for text in texts if text in before + block}
            before = block[-1000:]
    return found


def test_it_reaps_what_other_processes_leave(engine: Engine, image: str) -> None:
    """A supervisor would not reap a child that is not its own."""
    leave = "import subprocess, time; subprocess.run(['sh', '-c', 'sleep 0.2 &']); time.sleep(1); "
    look = "print(subprocess.run(['ps', '-eo', 'stat='], capture_output=True, text=True).stdout)"
    without = ("python3", "-c", leave + look)
    assert "Z" not in run(engine, image, "dumb-init", "--single-child", "--", *without)
    assert "Z" in run(engine, image, *without)
