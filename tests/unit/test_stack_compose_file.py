"""What is seen of a compose file before anything of it starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hive.errors import HiveError, InvalidInputError, SettingsError
from hive.stack import compose_file
from hive.stack.directory import packaged_compose

# The same file as both versions of compose resolve it.
BY_V1 = """
services:
  flower: {image: h, ports: ["127.0.0.1:5555:5555/tcp", "[::1]:81:80/udp", 443:443/tcp, 8000]}
  redis:
    image: r
    volumes: [broker:/data:rw, /s/config/redis.conf:/etc/redis.conf:ro]
version: '3.9'
"""
BY_V2 = """
name: hive
services:
  flower:
    image: h
    ports:
    - {mode: ingress, host_ip: 127.0.0.1, target: 5555, published: "5555", protocol: tcp}
    - {mode: ingress, host_ip: "::1", target: 80, published: "81", protocol: udp}
    - {mode: ingress, target: 443, published: "443", protocol: tcp}
    - {mode: ingress, target: 8000, protocol: tcp}
  redis:
    image: r
    volumes:
    - {type: volume, source: broker, target: /data, volume: {}}
    - {type: bind, source: /s/config/redis.conf, target: /etc/redis.conf, read_only: true}
"""


def spore(**said: Any) -> dict[str, Any]:
    return {"services": {"work": {"image": "venom-hive:1", "command": ["spore"], **said}}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("services: [\n  a: b", "not YAML, line 2"),
        ("a: b: c", "not YAML, line 1"),
        ("\tx", "not YAML, line 1"),
        ("a\0b", "not YAML"),
        ("", "has no `services`"),
        ("just text", "has no `services`"),
        ("[1, 2]", "has no `services`"),
        ("services: {}", "has no `services`"),
        ("services: [a]", "has no `services`"),
        ("services: {a: 1}", "service a is no mapping"),
        ("!!python/object/apply:os.getpid []", "not YAML"),
        ("services: {a: {x: 2026-99-99}}", "not YAML: month must be in 1..12."),
        ("[" * 5000, "not YAML: it cannot be read."),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        compose_file.read(text)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_hives_own_file_is_one() -> None:
    file = compose_file.read(packaged_compose())
    assert compose_file.services(file) == ["redis", "nexus", "spore", "flower"]


def test_an_unknown_service_is_refused_with_the_known_ones() -> None:
    file = compose_file.read("services: {a: {}, b: {}}")
    assert compose_file.known_service(file, "a") == "a"
    with pytest.raises(InvalidInputError, match="no service 'c'; it has a, b"):
        compose_file.known_service(file, "c")


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ({}, (10, 10, 15)),
        ({"stop_grace_period": "14s"}, (14, 10, 15)),
        ({"stop_grace_period": "20s", "environment": {"HIVE_DRAIN_TIMEOUT": "60"}}, (20, 60, 65)),
        ({"stop_grace_period": "1m4s", "environment": ["HIVE_DRAIN_TIMEOUT=60"]}, (64, 60, 65)),
        ({"stop_grace_period": "1m500ms", "environment": {"HIVE_DRAIN_TIMEOUT": 55}}, None),
        ({"stop_grace_period": "15s"}, None),
        ({"stop_grace_period": "15s", "environment": {"HIVE_DRAIN_TIMEOUT": None}}, None),
        ({"stop_grace_period": "1h"}, None),
    ],
)
def test_a_spore_gets_five_seconds_more_than_its_tasks(
    said: dict[str, Any], numbers: tuple[int, int, int] | None
) -> None:
    if numbers is None:
        compose_file.check_grace(spore(**said))
        return
    with pytest.raises(SettingsError) as refused:
        compose_file.check_grace(spore(**said))
    grace, drain, least = numbers
    assert f"killed {grace} s after" in str(refused.value)
    assert f"get {drain} s to finish" in str(refused.value)
    assert f"HIVE_STOP_GRACE_PERIOD={least}s" in str(refused.value)


@pytest.mark.parametrize(
    ("service", "is_one"),
    [
        ({"command": ["spore", "--app", "a:b"]}, True),
        ({"command": "spore --app a:b"}, True),
        ({"command": "/opt/hive/bin/hive spore"}, True),
        ({"entrypoint": ["dumb-init", "--", "hive"], "command": ["spore"]}, True),
        ({"entrypoint": ["hive", "spore"]}, True),
        ({"command": ["nexus"]}, False),
        ({"command": ["echo", "spore"]}, False),
        ({"command": "'unclosed"}, False),
        ({}, False),
    ],
)
def test_only_services_that_run_spores_are_held_to_it(
    service: dict[str, Any], is_one: bool
) -> None:
    resolved = {"services": {"x": service}}
    if is_one:
        with pytest.raises(SettingsError, match="Service x would be killed"):
            compose_file.check_grace(resolved)
    else:
        compose_file.check_grace(resolved)


@pytest.mark.parametrize(
    "said",
    [
        {"stop_grace_period": "soon"},
        {"stop_grace_period": "20"},
        {"environment": {"HIVE_DRAIN_TIMEOUT": "a while"}},
    ],
)
def test_a_time_that_is_none_is_refused_in_a_sentence(said: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Service work"):
        compose_file.check_grace(spore(**said))


@pytest.mark.parametrize("text", [BY_V1, BY_V2], ids=["v1", "v2"])
def test_published_ports_are_read_from_both_versions_answers(text: str) -> None:
    found = compose_file.published(yaml.safe_load(text))
    assert [one.option for one in found] == [
        "127.0.0.1:5555:5555/tcp",
        "[::1]:81:80/udp",
        "443:443/tcp",
    ]


@pytest.mark.parametrize("text", [BY_V1, BY_V2], ids=["v1", "v2"])
def test_a_mounted_file_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"redis mounts /s/config/redis\.conf, which is"):
        compose_file.check_paths(yaml.safe_load(text), Path("/s"))
    compose_file.check_paths(yaml.safe_load(text), Path("/t"))


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is missing")
@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, False),
        ({"HIVE_DRAIN_TIMEOUT": "60"}, True),
        ({"HIVE_DRAIN_TIMEOUT": "60", "HIVE_STOP_GRACE_PERIOD": "1m5s"}, False),
        ({"HIVE_STOP_GRACE_PERIOD": "12s"}, True),
    ],
)
def test_hives_own_file_is_held_to_it_as_compose_resolves_it(
    tmp_path: Path, settings: dict[str, str], refused: bool
) -> None:
    (tmp_path / "docker-compose.yml").write_text(packaged_compose())
    names = ("REDIS_PASSWORD", "REDIS_ADMIN_PASSWORD", "HIVE_FLOWER_PASSWORD")
    values = dict.fromkeys(names, "x" * 32) | settings
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = ["docker-compose", "--project-directory", str(tmp_path), "config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    resolved = compose_file.read(done.stdout)
    if refused:
        with pytest.raises(SettingsError, match="Service spore would be killed"):
            compose_file.check_grace(resolved)
    else:
        compose_file.check_grace(resolved)
    [flower] = compose_file.published(resolved)
    assert (flower.service, flower.address, flower.port) == ("flower", "127.0.0.1", "5555")


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "validating /home/x/docker-compose.yml.new: services.a.nonsense false schema\n",
            "The compose file cannot be used: services.a.nonsense false schema.",
        ),
        (
            (
                "The Compose file './nonsense.yml' is invalid because:\n"
                "Unsupported config option for services.a: 'nonsense'\n"
            ),
            "The compose file is not one: services.a has the unknown option nonsense.",
        ),
    ],
)
def test_what_compose_does_not_take_is_wrong_use(output: str, sentence: str) -> None:
    error: HiveError = compose_file.refused(output)
    assert error.message == sentence
    assert error.exit_code == 2
