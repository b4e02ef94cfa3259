"""The settings: where they are read from, what is wrong with a wrong one, and that secrets stay
secret.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hive.errors import SettingsError
from hive.settings import Settings


@pytest.fixture(autouse=True)
def _an_empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper() in {field.upper() for field in Settings.model_fields} | {"HIVE_ENV_FILE"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert settings.enable_hive is True
    assert settings.redis_url == "redis://localhost:6379/0"
    assert (settings.hive_high_priority_queue, settings.hive_background_queue) == (
        "venom:tasks:high",
        "venom:tasks:background",
    )
    assert settings.hive_broadcast_channel == "venom:broadcast"
    assert (
        settings.hive_task_timeout,
        settings.hive_max_retries,
        settings.hive_zombie_task_timeout,
    ) == (300, 3, 600)
    assert (settings.hive_heartbeat_interval, settings.dead_after) == (1, 3)
    assert (
        settings.foreman_cpu_weight,
        settings.foreman_memory_weight,
        settings.foreman_tasks_weight,
    ) == (0.4, 0.3, 0.3)
    assert settings.foreman_max_tasks_normalization == 10
    assert (settings.nexus_url, settings.nexus_host, settings.nexus_port) == (
        "http://127.0.0.1:8787",
        "127.0.0.1",
        8787,
    )
    assert settings.hive_home == Path.home() / ".hive"
    assert (settings.hive_node_name, settings.hive_node_labels, settings.hive_concurrency) == (
        None,
        {},
        None,
    )
    assert settings.hive_fetch_allow_private is False


def test_the_environment_wins_over_the_named_file_and_that_one_over_dotenv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tmp_path / "hive.env"
    (tmp_path / ".env").write_text("REDIS_HOST=dotenv\nREDIS_PORT=1\nREDIS_DB=1\n")
    named.write_text("REDIS_HOST=named\nREDIS_PORT=2\nSOMETHING_ELSE=x\n")
    monkeypatch.setenv("REDIS_HOST", "environment")
    assert Settings.load().redis_url == "redis://environment:1/1"
    monkeypatch.setenv("HIVE_ENV_FILE", str(named))
    assert Settings.load().redis_url == "redis://environment:2/1"
    monkeypatch.delenv("REDIS_HOST")
    assert Settings.load().redis_url == "redis://named:2/1"
    assert Settings.load(redis_host="argument").redis_url == "redis://argument:2/1"


@pytest.mark.parametrize(
    ("variable", "value", "fault", "example"),
    [
        ("REDIS_PORT", "abc", "valid integer", "6379"),
        ("REDIS_PORT", "70000", "less than or equal to 65535", "6379"),
        ("REDIS_HOST", "", "at least 1 character", "localhost"),
        ("REDIS_DB", "-1", "greater than or equal to 0", "0"),
        ("ENABLE_HIVE", "perhaps", "valid boolean", "true"),
        ("HIVE_TASK_TIMEOUT", "0", "greater than 0", "300"),
        ("HIVE_MAX_RETRIES", "1.5", "valid integer", "3"),
        ("HIVE_HEARTBEAT_INTERVAL", "0.01", "greater than or equal to 0.1", "1"),
        ("FOREMAN_MAX_TASKS_NORMALIZATION", "0", "greater than or equal to 1", "10"),
        ("NEXUS_URL", "nexus:8787", "match", "http://127.0.0.1:8787"),
        ("HIVE_NODE_NAME", "a b", "match", "spore-1"),
        ("HIVE_NODE_LABELS", "zone", "key=value pairs", "zone=a,disk=ssd"),
        ("HIVE_NODE_LABELS", "{zone", "", "zone=a,disk=ssd"),
        ("HIVE_CONCURRENCY", "0", "greater than or equal to 1", "4"),
    ],
)
def test_a_wrong_value_is_named_with_its_fault_and_an_example(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fault: str, example: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    message = str(caught.value)
    assert message.startswith(f"{variable} cannot be {value!r}: ")
    assert fault in message
    assert message.endswith(f"Example: {variable}={example}")
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "x")
    monkeypatch.setenv("NEXUS_PORT", "y")
    with pytest.raises(SettingsError, match=r"REDIS_PORT .*NEXUS_PORT "):
        Settings.load()


def test_the_two_queues_must_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_HIGH_PRIORITY_QUEUE", "venom:tasks:background")
    with pytest.raises(
        SettingsError,
        match="HIVE_HIGH_PRIORITY_QUEUE and HIVE_BACKGROUND_QUEUE must name different queues",
    ):
        Settings.load()


def test_a_settings_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HIVE_ENV_FILE", str(tmp_path / "missing.env"))
    with pytest.raises(
        SettingsError,
        match=r"HIVE_ENV_FILE names '.*missing\.env', which is not a readable file\. Example: ",
    ):
        Settings.load()
    (tmp_path / "latin1.env").write_bytes("REDIS_HOST=h\xe9\n".encode("latin-1"))
    monkeypatch.setenv("HIVE_ENV_FILE", str(tmp_path / "latin1.env"))
    with pytest.raises(SettingsError, match="UTF-8"):
        Settings.load()


def test_a_wrong_value_in_a_file_is_named_like_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hive.env").write_text("REDIS_PORT=x\n")
    monkeypatch.setenv("HIVE_ENV_FILE", str(tmp_path / "hive.env"))
    with pytest.raises(SettingsError, match="REDIS_PORT cannot be 'x'"):
        Settings.load()


@pytest.mark.parametrize("text", ["zone=a, disk=ssd,", '{"zone": "a", "disk": "ssd"}'])
def test_labels_are_pairs_or_json(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HIVE_NODE_LABELS", text)
    assert Settings.load().hive_node_labels == {"zone": "a", "disk": "ssd"}


def test_the_password_is_in_the_address_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2/@")
    monkeypatch.setenv("REDIS_USERNAME", "me")
    settings = Settings.load(redis_host="::1")
    assert settings.redis_url == "redis://me:hunter2%2F%40@[::1]:6379/0"
    shown = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()]
    assert not any("hunter2" in text for text in shown)


@pytest.mark.parametrize(
    "wrong", [{"redis_password": ["hunter2"]}, {"redis_password": "hunter2", "redis_port": "x"}]
)
def test_an_error_does_not_tell_the_password(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(**wrong)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().redis_host = "other"  # type: ignore[misc]
