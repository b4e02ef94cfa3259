"""The files for containers agree with each other, with the settings, and with the release."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from hive.settings import Settings

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "config" / "hive.env.example"
COMPOSE_FILES = sorted(REPOSITORY.glob("docker-compose*.yml"))
FIELDS = {name.upper() for name in Settings.model_fields}
RELEASE = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
ENGINES_OWN = {"HIVE_IMAGE", "HIVE_STOP_GRACE_PERIOD"}
BROKERS_OWN = {"REDIS_ADMIN_PASSWORD"}


def services(name: str = "docker-compose.yml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())["services"]
    return found


def told(service: str) -> set[str]:
    """The variables that a service's containers get, with TLS."""
    files = ("docker-compose.yml", "docker-compose.tls.yml")
    return {name for file in files for name in services(file)[service]["environment"]}


def test_every_setting_gets_to_the_containers() -> None:
    of_flower = {name for name in FIELDS if name.startswith("HIVE_FLOWER_")}
    assert told("flower") == FIELDS
    assert told("nexus") == told("spore") == FIELDS - of_flower


def test_what_is_of_one_container_alone_is_not_taken_from_env() -> None:
    """A template that serves machines as well may have another value for it."""
    fixed = {"REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_USERNAME", "HIVE_HOME"}
    fixed |= {"NEXUS_HOST", "NEXUS_PORT", "NEXUS_URL"}
    for service in ("nexus", "spore", "flower"):
        environment = services()[service]["environment"]
        assert {name for name in fixed if "$" in (environment[name] or "$")} == set()


def test_the_example_explains_every_setting() -> None:
    lines = EXAMPLE.read_text().splitlines()
    named = [line.lstrip("#").partition("=")[0] for line in lines if re.match(r"#?[A-Z_]+=", line)]
    assert len(named) == len(set(named))
    assert set(named) == FIELDS | ENGINES_OWN | BROKERS_OWN
    assert all(line.startswith("# ") or not line or "=" in line for line in lines)


def test_the_example_names_all_that_the_compose_files_take_from_env() -> None:
    asked = {
        name for file in COMPOSE_FILES for name in re.findall(r"\$\{([A-Z_]+)", file.read_text())
    }
    assert asked <= FIELDS | ENGINES_OWN | BROKERS_OWN


@pytest.fixture
def uncommented(tmp_path: Path) -> dict[str, str | None]:
    """The example with all its lines in force."""
    path = tmp_path / "all.env"
    path.write_text(re.sub(r"^#([A-Z])", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))
    return dotenv_values(path)


def test_the_examples_values_are_valid_and_else_the_defaults(
    uncommented: dict[str, str | None],
) -> None:
    values = {name.lower(): value for name, value in uncommented.items() if name in FIELDS}
    for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key"):
        del values[name]  # there are no such files here
    settings, defaults = Settings(**values), Settings(_env_file=None)
    differ = {
        name
        for name in Settings.model_fields
        if getattr(settings, name) != getattr(defaults, name) and values.get(name)
    }
    own = {"redis_host", "redis_username", "redis_tls", "hive_home", "hive_app"}
    no_default = {"hive_node_name", "hive_node_labels", "hive_concurrency", "hive_dead_after"}
    assert differ <= own | no_default
    assert values["redis_password"] == values["hive_flower_password"] == ""


def test_the_image_has_the_releases_name_everywhere() -> None:
    for name in ("docker-compose.yml", "Dockerfile", "config/hive.env.example"):
        found = re.findall(r"venom-hive:([\w.]+)", (REPOSITORY / name).read_text())
        assert set(found) == {RELEASE}, name


def test_an_engine_waits_five_seconds_longer_than_a_spore() -> None:
    default = Settings.model_fields["hive_drain_timeout"].default
    for service in ("nexus", "spore", "flower"):
        period = services()[service]["stop_grace_period"]
        waits = int(re.fullmatch(r"\$\{HIVE_STOP_GRACE_PERIOD:-(\d+)s\}", period)[1])
        assert waits >= default + 5


def test_nothing_of_a_service_is_confined_less_than_it_may_be() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "max-size" in service["logging"]["options"], name
        assert service.get("privileged") is None, name
        assert ("cap_add" in service) == (name == "redis")
