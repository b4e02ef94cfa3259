"""The compose file as a user of the older Compose has it, with its two overrides, and upgraded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Engine
from tests.docker.project import Project
from tests.harness import wait_until

PATIENCE = 60


def test_the_older_compose_starts_scales_and_stops_it(projects: Any) -> None:
    project = projects("1")
    project.up(spores=2)
    assert works(project)
    project.up(spores=1)
    done = project.wait_all_done()["done"]
    project.compose("down")
    assert project.containers(stopped=True) == []
    project.compose("up", "--detach", "redis", "nexus")
    assert project.account()["done"] == done > 0, "what was is still known"
    project.compose("down", "--volumes")
    assert not any(project.left().values())


def works(project: Project) -> bool:
    """Whether a job of ten items gives its answers."""
    items = [str(n) for n in range(10)]
    mapped = ("map", "double", *items, "--app", "shop:app", "--reduce", "sum")
    return project.hive(*mapped).strip() == str(2 * sum(range(10)))


# What `openssl` is told to make an authority, and the certificates of both sides.
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def certificates(directory: Path) -> None:
    directory.mkdir()

    def make(name: str, subject: str, *options: str) -> None:
        named = ("-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
        command = ["openssl", "req", "-x509", *CURVE, *named, *options]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)

    make("ca", "hive")
    for name, subject in {"redis": "redis", "client": "client"}.items():
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key")
        names = ("-addext", f"subjectAltName=DNS:{subject}")
        make(name, subject, *signed, *names, "-addext", "basicConstraints=critical,CA:FALSE")
    # As the override says: only the containers' user may read it.
    (directory / "client.key").chmod(0o400)
    subprocess.run(["chown", "10001", str(directory / "client.key")], check=True)


PLAIN = """
import socket
there = socket.create_connection(("redis", 6379), 5)
there.sendall(b"PING\\r\\n")
print(there.recv(100))
"""


def test_with_tls_all_speak_it_and_the_broker_nothing_else(projects: Any) -> None:
    project = projects("2", overrides=("tls",))
    certificates(project.directory / "tls")
    project.up(spores=1)
    assert works(project)
    wait_until(lambda: project.health("redis") == {"healthy"}, PATIENCE, "it is well")
    answer = project.execute("nexus", "python3", "-c", PLAIN, check=False)
    assert "PONG" not in answer
    assert "NOAUTH" not in answer
    project.compose("down", "--volumes")
    assert not any(project.left().values())


@pytest.mark.parametrize("missing", ["ca.crt", "redis.key"])
def test_without_a_certificate_a_sentence_says_which(projects: Any, missing: str) -> None:
    project = projects("2", overrides=("tls",))
    certificates(project.directory / "tls")
    (project.directory / "tls" / missing).unlink()
    project.compose("up", "--detach", "redis", check=False)
    said = f"tls/{missing} is missing: docker-compose.tls.yml says how to make it."
    wait_until(lambda: said in project.logs("redis"), PATIENCE, "it says so")


PING = """
import os, sys, redis
client = redis.Redis("127.0.0.1", 6379, username="hive", password=os.environ["SECRET"])
print(client.ping())
"""


def test_for_development_the_broker_is_on_loopback_and_nowhere_else(projects: Any) -> None:
    project = projects("2", overrides=("dev",))
    project.compose("up", "--detach", "redis")
    engine = project.engine
    assert engine.listening() == {"127.0.0.1:6379"}
    secret = {"SECRET": project.passwords["REDIS_PASSWORD"]}
    wait_until(lambda: project.health("redis") == {"healthy"}, PATIENCE, "it is well")
    assert engine.inside(sys.executable, "-c", PING, env=secret).stdout.strip() == "True"


def test_spores_of_a_new_image_join_before_those_of_the_old_one_leave(
    projects: Any, engine: Engine, shop_image: str
) -> None:
    project = projects("2")
    project.up(spores=1)
    [old] = project.containers("spore")
    lasts = project.python("print(wait.delay(5).id)").strip()
    engine.docker("tag", shop_image, "shop:next")
    project.settings["HIVE_IMAGE"] = "shop:next"
    project.write_env()
    up = ("up", "--detach", "--no-deps")
    project.compose(*up, "nexus", "flower")
    project.compose(*up, "--no-recreate", "--scale", "spore=2", "spore")
    project.wait_online(2)
    assert engine.inspect(old)[0]["State"]["Running"], "the old one has work"
    engine.docker("stop", old)
    engine.docker("rm", old)
    [new] = project.containers("spore")
    assert engine.inspect(new)[0]["Config"]["Image"] == "shop:next"
    told = project.python("print(app.AsyncResult(sys.argv[1]).get(timeout=60))", lasts).strip()
    assert told == old[:12], "what the old one ran it has finished"
    assert works(project)
