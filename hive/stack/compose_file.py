"""A compose file: read, and looked at for what would go wrong only once it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hive.errors import HiveError, InvalidInputError, SettingsError
from hive.settings import Settings
from hive.stack.errors import StackError
from hive.stack.said import error_of

GRACE_BEYOND_DRAIN = 5.0
"""Seconds that a spore needs to end, after the tasks that it was given time to finish."""
GRACE_OF_COMPOSE = 10.0
"""Where a service says nothing."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True, slots=True)
class Published:
    """A port of the machine that a service publishes."""

    service: str
    address: str
    """Empty for all of the machine's."""
    port: str
    target: str
    protocol: str

    @property
    def option(self) -> str:
        """As `docker run --publish` takes it."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        before = f"{address}:" if address else ""
        return f"{before}{self.port}:{self.target}/{self.protocol}"


def read(text: str) -> dict[str, Any]:
    """The compose file as a mapping whose `services` are mappings.

    Raises: InvalidInputError where it is no YAML, or no compose file.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or "it cannot be read"
        raise InvalidInputError(f"The compose file is not YAML{where}: {why}.") from None
    except ValueError as error:  # of a date that is none
        raise InvalidInputError(f"The compose file is not YAML: {error}.") from None
    except RecursionError:
        raise InvalidInputError("The compose file is not YAML: it cannot be read.") from None
    services = found.get("services") if isinstance(found, dict) else None
    if not isinstance(services, dict) or not services:
        raise InvalidInputError("The compose file is not one: it has no `services`.")
    for name, service in services.items():
        if not isinstance(service, dict):
            raise InvalidInputError(f"The compose file is not one: service {name} is no mapping.")
    return {**found}


def refused(output: str) -> HiveError:
    """The error for a file that compose does not take, by what it said."""
    error = error_of(output, "The compose file cannot be used")
    if type(error) is not StackError:
        return error
    return InvalidInputError(re.sub(r"validating \S+: +", "", error.message))


def services(file: Mapping[str, Any]) -> list[str]:
    """Their names, in the order of the file."""
    return [str(name) for name in file["services"]]


def known_service(file: Mapping[str, Any], name: str) -> str:
    """The name, if the file has such a service. Raises: InvalidInputError listing the known."""
    if name not in services(file):
        raise InvalidInputError(
            f"The stack has no service {name!r}; it has {', '.join(services(file))}."
        )
    return name


def check_grace(resolved: Mapping[str, Any]) -> None:
    """Refuse a spore that would be killed while it still may finish its tasks.

    resolved: what `compose config` makes of the file.
    Raises: SettingsError with the numbers.
    """
    for name, service in resolved["services"].items():
        if not _runs_spore(service):
            continue
        drain = _drain_timeout(str(name), service)
        grace = _grace(str(name), service)
        least = drain + GRACE_BEYOND_DRAIN
        if grace < least:
            raise SettingsError(
                f"Service {name} would be killed {grace:g} s after it is told to stop "
                f"(stop_grace_period), but its tasks get {drain:g} s to finish "
                f"(HIVE_DRAIN_TIMEOUT): it needs at least {least:g} s, in Hive's own compose file "
                f"by HIVE_STOP_GRACE_PERIOD={least:g}s in the stack's .env."
            )


def _runs_spore(service: Mapping[str, Any]) -> bool:
    """Whether it is `hive spore`: the image's entrypoint is `hive`, or the command names it."""
    words = [*_words(service.get("entrypoint")), *_words(service.get("command"))]
    names = [word.rpartition("/")[2] for word in words]
    if "hive" in names:
        return names[names.index("hive") + 1 :][:1] == ["spore"]
    return names[:1] == ["spore"]


def _words(command: object) -> list[str]:
    if isinstance(command, str):
        try:
            return shlex.split(command)
        except ValueError:
            return []
    return [str(word) for word in command] if isinstance(command, list) else []


def _drain_timeout(name: str, service: Mapping[str, Any]) -> float:
    said = environment_of(service).get("HIVE_DRAIN_TIMEOUT")
    if said in (None, ""):
        return float(Settings.model_fields["hive_drain_timeout"].default)
    try:
        return float(said or "")
    except ValueError:
        raise SettingsError(
            f"Service {name}: HIVE_DRAIN_TIMEOUT cannot be {said!r}; it is a number of seconds, "
            "as 10."
        ) from None


def environment_of(service: Mapping[str, Any]) -> dict[str, str | None]:
    """A resolved service's environment, which may be a mapping or a list."""
    said = service.get("environment") or {}
    if isinstance(said, dict):
        return {str(name): None if value is None else str(value) for name, value in said.items()}
    pairs = [str(one).partition("=") for one in said]
    return {name: value if equals else None for name, equals, value in pairs}


def _grace(name: str, service: Mapping[str, Any]) -> float:
    said = service.get("stop_grace_period")
    if said is None:
        return GRACE_OF_COMPOSE
    parts = _DURATION.findall(str(said))
    if "".join(f"{number}{unit}" for number, unit in parts) != str(said):
        raise SettingsError(f"Service {name}: stop_grace_period {said!r} is no duration, as 20s.")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def check_paths(resolved: Mapping[str, Any], directory: Path) -> None:
    """Refuse what a service mounts from the stack's directory and is not there: the engine would
    make an empty directory of it.

    Raises: InvalidInputError.
    """
    for name, service in resolved["services"].items():
        for source in _bind_sources(service):
            if source.is_relative_to(directory) and not source.exists():
                raise InvalidInputError(
                    f"Service {name} mounts {source}, which is not there: paths are those of the "
                    "stack's directory; put it there, or name it from the root on."
                )


def _bind_sources(service: Mapping[str, Any]) -> list[Path]:
    found = []
    for volume in service.get("volumes") or ():
        if isinstance(volume, dict):
            source = volume.get("source") if volume.get("type") == "bind" else None
        else:
            source = str(volume).partition(":")[0]
        if source and str(source).startswith("/"):
            found.append(Path(source))
    return found


def published(resolved: Mapping[str, Any]) -> list[Published]:
    """The ports of the machine that the services publish; ranges and free ones are left out."""
    found = []
    for name, service in resolved["services"].items():
        for port in service.get("ports") or ():
            one = _published(str(name), port)
            if one is not None and one.port.isdigit() and one.port != "0":
                found.append(one)
    return found


def _published(service: str, port: object) -> Published | None:
    if isinstance(port, dict):
        return Published(
            service,
            str(port.get("host_ip") or ""),
            str(port.get("published") or ""),
            str(port.get("target") or ""),
            str(port.get("protocol") or "tcp"),
        )
    ends, _, protocol = str(port).partition("/")
    before, _, target = ends.rpartition(":")
    address, _, number = before.rpartition(":")
    return Published(service, address.strip("[]"), number, target, protocol or "tcp")
