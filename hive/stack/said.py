"""What engine, compose and containers say, in Hive's words: a table of known messages."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hive.errors import HiveError, InvalidInputError, SettingsError
from hive.stack.errors import EngineUnreachableError, StackError


@dataclass(frozen=True, slots=True)
class _Known:
    pattern: re.Pattern[str]
    error: type[HiveError]
    sentence: str
    """With the pattern's groups as {0}, {1}."""


def _known(pattern: str, error: type[HiveError], sentence: str) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE | re.DOTALL), error, sentence)


# The first that fits counts. Both compose versions and the engines since 20.10 are in it; the
# outputs that it was made from are in the tests.
KNOWN = (
    _known(
        r"permission denied while trying to connect|connect: permission denied"
        r"|PermissionError\(13",
        EngineUnreachableError,
        "This user may not open the container engine's socket: run it as root, or add the user to "
        "the group docker and log in again.",
    ),
    _known(
        r"(?:client version \S+|api version) (?:is )?too (?:old|new)",
        EngineUnreachableError,
        "Client and container engine are of releases too far apart to speak with each other: "
        "install the Docker client and the compose plugin of the engine's release.",
    ),
    _known(
        r"cannot connect to the docker daemon|couldn't connect to docker daemon"
        r"|error during connect|is the docker daemon running|failed to connect to the docker api",
        EngineUnreachableError,
        "No container engine answers: start it (systemctl start docker), or set DOCKER_HOST.",
    ),
    _known(
        r"no space left on device|disk quota exceeded",
        StackError,
        "The disk is full: free space where the container engine keeps its data (`docker system "
        "df` shows what fills it), then say it again.",
    ),
    _known(
        r"can't handle RDB format version (\d+)|The RDB version \S*(\d+)\S* is not supported",
        StackError,
        "The broker's data are of a newer Redis than this one (RDB format {0}), which cannot read "
        "them: run the Redis that wrote them; the volume is untouched.",
    ),
    _known(
        r"(?:bind for|listen tcp[46]?) \[?([0-9a-f.:]*?)\]?:(\d+)[^\n]*"
        r"(?:port is already allocated|address already in use)",
        StackError,
        "Port {1} on {0} is taken: end what listens there, or publish another port.",
    ),
    _known(
        r"port is already allocated|address already in use",
        StackError,
        "A port that the stack publishes is taken: end what listens there, or publish another one.",
    ),
    _known(
        r"(?:required variable (\w+) is missing a value|\$\{{?(\w+):\?[^\n]*): ([^\n]+)",
        SettingsError,
        "{0} is not set in the stack's .env: {1}",
    ),
    _known(
        r"Unsupported config option for (\S+): '([^'\n]+)'",
        InvalidInputError,
        "The compose file is not one: {0} has the unknown option {1}.",
    ),
    _known(
        r"no such service: ([\w.-]+)",
        InvalidInputError,
        "The stack has no service {0}.",
    ),
    _known(
        r"non-overlapping ipv4 address pool|pool overlaps with other one|address pools have been"
        r" fully subnetted",
        StackError,
        "The container engine has no addresses left for another network: remove networks that "
        "nothing uses (`docker network prune`).",
    ),
    _known(
        r"toomanyrequests|rate limit",
        StackError,
        "The registry refuses, for too many requests: wait, or log in to it (`docker login`).",
    ),
)

# Lines that say nothing of what is wrong.
_NOISE = re.compile(
    r"^$|^encountered errors while bringing up|^some networks were defined but|^run 'docker"
    r"|^\s*(?:network|volume|container|image) \S+ +\S+\s*$|^(?:creating|starting|recreating) "
    r"|^deprecated: |legacy builder|^\s*install the buildx|^see 'docker|^usage:|^warn"
    r"|^find more information|--help|^removing intermediate|^time=\S+ level=warning",
    re.IGNORECASE,
)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_PREFIX = re.compile(
    r"^(?:docker: )?(?:error(?::| response from daemon:)\s*)+(?:for \S+ +)?", re.IGNORECASE
)


def error_of(output: str, doing: str) -> HiveError:
    """The error that stands for what a program has said.

    doing: what was not done, for a message that the table does not know, as "The stack hive could
        not be started".
    """
    for known in KNOWN:
        if found := known.pattern.search(output):
            groups = [" ".join(group.split()).rstrip(".") for group in found.groups() if group]
            return known.error(_filled(known.sentence, groups))
    reason = last_line(output) or "the container engine gave no reason"
    return StackError(f"{doing}: {reason.rstrip('.')}.")


def _filled(sentence: str, groups: list[str]) -> str:
    for number in range(3):
        value = groups[number] if number < len(groups) else "?"
        sentence = sentence.replace(f"{{{number}}}", value)
    return sentence if sentence.endswith(".") else f"{sentence}."


def last_line(output: str) -> str:
    """The last line that says something, without what programs put before it."""
    lines = [_COLOUR.sub("", line).strip() for line in output.splitlines()]
    told = [line for line in lines if not _NOISE.search(line)]
    return _PREFIX.sub("", told[-1]) if told else ""


def reason_in_log(log: str) -> str:
    """Why a container does not serve, by its log: a known trouble in Hive's words, the sentence of
    a `hive` command, else its last line.
    """
    for known in KNOWN:
        if known.error is StackError and (found := known.pattern.search(log)):
            groups = [group for group in found.groups() if group]
            return _filled(known.sentence, groups)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    sentences = [line.removeprefix("hive: ") for line in lines if line.startswith("hive: ")]
    return (sentences or lines or ["(it has said nothing)"])[-1]
