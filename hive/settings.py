"""Every environment variable that Hive reads, typed, checked once at start, and named as
docs/settings.md names it.
"""

from __future__ import annotations

import json
import os
import ssl
import unicodedata
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hive.errors import SettingsError

READY_APP = "hive"
"""The application that Hive brings along, as `celery -A` takes it."""

SHORTEST_PASSWORD = 32
"""Characters of a password by which others than this machine come in: nobody counts tries."""

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Hive's configuration; a field's name in capitals is its environment variable.

    The environment wins over the file named by HIVE_ENV_FILE, and that one over `.env` in the
    working directory.
    Use `Settings.load()`, which turns a wrong value into a SettingsError.
    """

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=False, frozen=True)

    enable_hive: bool = Field(True, examples=["true"])

    redis_host: str = Field("localhost", min_length=1, examples=["localhost"])
    redis_port: Port = Field(6379, examples=["6379"])
    redis_db: int = Field(0, ge=0, examples=["0"])
    redis_username: str | None = Field(None, examples=["hive"])
    redis_password: SecretStr | None = Field(None, examples=["a-long-secret"])
    redis_tls: bool = Field(False, examples=["true"])
    redis_tls_ca: Path | None = Field(None, examples=["/etc/hive/ca.crt"])
    redis_tls_cert: Path | None = Field(None, examples=["/etc/hive/client.crt"])
    redis_tls_key: Path | None = Field(None, examples=["/etc/hive/client.key"])

    hive_high_priority_queue: str = Field(
        "venom:tasks:high", min_length=1, examples=["venom:tasks:high"]
    )
    hive_background_queue: str = Field(
        "venom:tasks:background", min_length=1, examples=["venom:tasks:background"]
    )
    hive_broadcast_channel: str = Field(
        "venom:broadcast", min_length=1, examples=["venom:broadcast"]
    )

    hive_queue_limit: int = Field(0, ge=0, examples=["100000"])

    hive_task_timeout: Seconds = Field(300.0, examples=["300"])
    hive_publish_timeout: float = Field(10.0, ge=0, examples=["10"])
    hive_wait_replicas: int = Field(0, ge=0, examples=["1"])
    hive_max_retries: int = Field(3, ge=0, examples=["3"])
    hive_dead_letters_max: int = Field(10_000, ge=0, examples=["10000"])
    hive_dead_letters_days: float = Field(90.0, ge=0, examples=["90"])
    hive_zombie_task_timeout: Seconds = Field(600.0, examples=["600"])
    hive_drain_timeout: float = Field(10.0, ge=0, examples=["10"])
    hive_heartbeat_interval: float = Field(1.0, ge=0.1, le=60, examples=["1"])
    hive_dead_after: Seconds | None = Field(None, examples=["3"])

    foreman_cpu_weight: float = Field(0.4, ge=0, examples=["0.4"])
    foreman_memory_weight: float = Field(0.3, ge=0, examples=["0.3"])
    foreman_tasks_weight: float = Field(0.3, ge=0, examples=["0.3"])
    foreman_max_tasks_normalization: int = Field(10, ge=1, examples=["10"])

    nexus_url: str = Field(
        "http://127.0.0.1:8787", pattern=r"^https?://", examples=["http://127.0.0.1:8787"]
    )
    nexus_host: str = Field("127.0.0.1", min_length=1, examples=["127.0.0.1"])
    nexus_port: int = Field(8787, ge=0, le=65535, examples=["8787"])

    hive_flower_user: str = Field("hive", min_length=1, examples=["hive"])
    hive_flower_password: SecretStr | None = Field(None, examples=["a-long-secret"])
    hive_flower_host: str = Field("127.0.0.1", min_length=1, examples=["127.0.0.1"])
    hive_flower_port: int = Field(5555, ge=0, le=65535, examples=["5555"])

    hive_app: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$", examples=["shop.tasks:app"]
    )

    hive_node_name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]+(@[A-Za-z0-9._-]+)?$", examples=["spore-1"]
    )
    hive_node_labels: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, examples=["zone=a,disk=ssd"]
    )
    hive_concurrency: int | None = Field(None, ge=1, le=1024, examples=["4"])
    hive_home: Path = Field(Path("~/.hive"), examples=["/var/lib/hive"])
    hive_fetch_allow_private: bool = Field(False, examples=["false"])

    @field_validator("hive_node_labels", mode="before")
    @classmethod
    def _read_labels(cls, value: object) -> object:
        """Accept `zone=a,disk=ssd` and a JSON object."""
        if not isinstance(value, str):
            return value
        if value.strip().startswith("{"):
            return json.loads(value)
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not key.strip() or not separator for key, separator, _ in pairs):
            raise ValueError("should be key=value pairs separated by commas")
        return {key.strip(): label.strip() for key, _, label in pairs}

    @field_validator(
        "redis_tls_ca",
        "redis_tls_cert",
        "redis_tls_key",
        "hive_app",
        "hive_flower_password",
        mode="before",
    )
    @classmethod
    def _empty_is_not_set(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("redis_tls_ca", "redis_tls_cert", "redis_tls_key", mode="after")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        if not os.access(path, os.R_OK) or not path.is_file():
            raise ValueError("it is not a readable file")
        return path

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Settings:
        named = [
            name
            for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key")
            if getattr(self, name) is not None
        ]
        if named and not self.redis_tls:
            raise ValueError(
                f"{named[0].upper()} is set, but REDIS_TLS is not true: everything would be sent "
                "in plain text"
            )
        if self.redis_tls_key and not self.redis_tls_cert:
            raise ValueError("REDIS_TLS_KEY is set, but not the REDIS_TLS_CERT that it belongs to")
        _check_certificates(self.redis_tls_ca, self.redis_tls_cert, self.redis_tls_key)
        return self

    @field_validator("hive_flower_user", "hive_flower_password", mode="after")
    @classmethod
    def _can_be_typed(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        """HTTP's basic authentication has no way to send anything else (RFC 7617, section 2)."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            raise ValueError("it has a control character, which no browser sends")
        if isinstance(value, str) and ":" in value:
            raise ValueError("a browser sends what follows the colon as part of the password")
        return value

    @field_validator("hive_home", mode="after")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return value.expanduser()

    @model_validator(mode="after")
    def _queues_differ(self) -> Settings:
        if self.hive_high_priority_queue == self.hive_background_queue:
            raise ValueError(
                "HIVE_HIGH_PRIORITY_QUEUE and HIVE_BACKGROUND_QUEUE must name different queues"
            )
        return self

    @model_validator(mode="after")
    def _death_takes_two_beats(self) -> Settings:
        if self.dead_after < 2 * self.hive_heartbeat_interval:
            raise ValueError(
                f"HIVE_DEAD_AFTER is {self.dead_after:g} s, less than two heartbeats "
                f"(HIVE_HEARTBEAT_INTERVAL is {self.hive_heartbeat_interval:g} s): a node that is "
                "late once would count as dead"
            )
        return self

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment, HIVE_ENV_FILE and `.env`; keyword arguments win over all of them.

        Returns: the checked settings.
        Raises: SettingsError naming the variable, what is wrong with its value, and an example.
        """
        named = os.environ.get("HIVE_ENV_FILE")
        if named and not Path(named).is_file():
            raise SettingsError(
                f"HIVE_ENV_FILE names {named!r}, which is not a readable file. Example: "
                "HIVE_ENV_FILE=/srv/hive/hive.env "
                "(a hive.env is there while its `hive up` runs)"
            )
        try:
            return cls(_env_file=tuple(f for f in (".env", named) if f), **overrides)
        except ValidationError as error:
            raise SettingsError(_explain(cls, error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"A settings file cannot be read: {error}. Fix its rights or its encoding (UTF-8)."
            ) from None

    @property
    def redis_url(self) -> str:
        """The broker's address, password included: never log it."""
        secret = self.redis_password.get_secret_value() if self.redis_password else ""
        user = quote(self.redis_username or "", safe="")
        login = f"{user}:{quote(secret, safe='')}@" if user or secret else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{login}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def dead_after(self) -> float:
        """Seconds without a heartbeat after which an incarnation counts as dead."""
        return self.hive_dead_after or 3 * self.hive_heartbeat_interval

    @property
    def away_after_ms(self) -> int:
        """Milliseconds without a heartbeat of any node after which it is the broker, or the way to
        it, that was away: nobody is missed for what was not heard in them.
        """
        return int(1000 * max(1.5 * self.hive_heartbeat_interval, self.dead_after / 2))


def settings_of(app: Any) -> Settings:
    """The settings of an application: those that `hive.install` was given for it, also where
    ENABLE_HIVE is false; the environment's where it was given none.

    Raises: SettingsError.
    """
    own = getattr(app, "hive_settings", None)
    return own if isinstance(own, Settings) else Settings.load()


def _check_certificates(
    authorities: Path | None, certificate: Path | None, key: Path | None
) -> None:
    """Raise ValueError for files that no connection could use.

    Found only while connecting, such a file would be an outage that is waited for without end.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except OSError as error:
        raise ValueError(
            f"REDIS_TLS_CA {authorities} has no certificate that can be read ({error})"
        ) from None
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        where = f"REDIS_TLS_CERT {certificate}" + (f" and REDIS_TLS_KEY {key}" if key else "")
        raise ValueError(f"{where} are no certificate and its unencrypted key ({error})") from None


def _explain(settings: type[Settings], error: ValidationError) -> str:
    """What is wrong, a sentence for each fault.

    It names the variable, its value unless that is a secret, the reason, and an example.
    """
    sentences = []
    for fault in error.errors(include_url=False):
        reason = fault["msg"].removeprefix("Value error, ")
        field = str(fault["loc"][0]) if fault["loc"] else ""
        info = settings.model_fields.get(field)
        if info is None:
            sentences.append(f"{reason}.")
            continue
        shown = "its value" if "password" in field else repr(fault.get("input"))
        example = f" Example: {field.upper()}={info.examples[0]}" if info.examples else ""
        sentences.append(
            f"{field.upper()} cannot be {shown}: {reason[:1].lower()}{reason[1:]}.{example}"
        )
    return " ".join(sentences)
