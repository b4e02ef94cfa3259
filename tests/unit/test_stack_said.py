"""What engine and compose say, in Hive's words. The outputs are recorded: of docker 20.10 and 28,
docker-compose 1.29.2, docker compose 5.6.1, Redis 7.0.
"""

from __future__ import annotations

import pytest

from hive.errors import HiveError, InvalidInputError, SettingsError
from hive.stack.errors import EngineUnreachableError, StackError
from hive.stack.said import error_of, last_line, reason_in_log

RDB_LOG = """\
1:C 28 Nov 2026 07:21:40.021 # Redis version=7.0.15, bits=64, commit=00000000, just started
1:M 28 Nov 2026 07:21:40.022 * Server initialized
1:M 28 Nov 2026 07:21:40.022 # Can't handle RDB format version 12
1:M 28 Nov 2026 07:21:40.022 # Fatal error loading the DB, check server logs. Exiting.
"""

RECORDED: list[tuple[str, type[HiveError], str]] = [
    (
        (
            "permission denied while trying to connect to the Docker daemon socket at "
            "unix:///var/run/docker.sock: Get "
            '"http://%2Fvar%2Frun%2Fdocker.sock/v1.50/version": dial '
            "unix /var/run/docker.sock: connect: permission denied\n"
        ),
        EngineUnreachableError,
        (
            "This user may not open the container engine's socket: run it as root, or add the "
            "user to "
            "the group docker and log in again."
        ),
    ),
    (
        (
            "Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon "
            "running?\n"
        ),
        EngineUnreachableError,
        "No container engine answers: start it (systemctl start docker), or set DOCKER_HOST.",
    ),
    (
        (
            "ERROR: Couldn't connect to Docker daemon at http+docker://localhost - is it "
            "running?\n\n"
            "If it's at a non-standard location, specify the URL with the DOCKER_HOST environment "
            "variable.\n"
        ),
        EngineUnreachableError,
        "No container engine answers: start it (systemctl start docker), or set DOCKER_HOST.",
    ),
    (
        (
            "Error response from daemon: client version 1.22 is too old. Minimum supported API "
            "version "
            "is 1.44, please upgrade your client to a newer version\n"
        ),
        EngineUnreachableError,
        (
            "Client and container engine are of releases too far apart to speak with each other: "
            "install the Docker client and the compose plugin of the engine's release."
        ),
    ),
    (
        (
            "docker: Error response from daemon: driver failed programming external "
            "connectivity on "
            "endpoint sleepy_almeida "
            "(4c73a43ef3ca8ac9a66066b604d5d82f7ba96cdbf2def4af9de0d535c639d692)"
            ": Error starting userland proxy: listen tcp4 127.0.0.1:5555: bind: address already "
            "in use"
            "\n\nRun 'docker run --help' for more information\n"
        ),
        StackError,
        "Port 5555 on 127.0.0.1 is taken: end what listens there, or publish another port.",
    ),
    (
        (
            "Error response from daemon: driver failed programming external connectivity on "
            "endpoint "
            "own-flower-1 (5d): Bind for 127.0.0.1:5555 failed: port is already allocated\n"
        ),
        StackError,
        "Port 5555 on 127.0.0.1 is taken: end what listens there, or publish another port.",
    ),
    (
        (
            "Error response from daemon: write /var/lib/docker/tmp/GetImageBlob1: no space left on "
            "device\n"
        ),
        StackError,
        (
            "The disk is full: free space where the container engine keeps its data (`docker "
            "system "
            "df` shows what fills it), then say it again."
        ),
    ),
    (
        (
            "Step 2/2 : RUN pip install .\n ---> Running in eea78db0fe7a\n"
            "\x1b[91mdd: \x1b[0m\x1b[91merror writing '/big': No space left on device\n\x1b[0m"
            "The command '/bin/sh -c pip install .' returned a non-zero code: 1\n"
        ),
        StackError,
        (
            "The disk is full: free space where the container engine keeps its data (`docker "
            "system "
            "df` shows what fills it), then say it again."
        ),
    ),
    (
        RDB_LOG,
        StackError,
        (
            "The broker's data are of a newer Redis than this one (RDB format 12), which cannot "
            "read "
            "them: run the Redis that wrote them; the volume is untouched."
        ),
    ),
    (
        (
            "error while interpolating services.redis.environment.REDIS_PASSWORD: required "
            "variable "
            "REDIS_PASSWORD is missing a value: make one of 32 characters\n"
        ),
        SettingsError,
        "REDIS_PASSWORD is not set in the stack's .env: make one of 32 characters.",
    ),
    (
        (
            'Missing mandatory value for "environment" option interpolating '
            "{'REDIS_PASSWORD': '${REDIS_PASSWORD:?make one of 32 characters}', 'FOO': None} in "
            'service "redis": make one of 32 characters\n'
        ),
        SettingsError,
        "REDIS_PASSWORD is not set in the stack's .env: make one of 32 characters.",
    ),
    (
        "no such service: nope: not found\n",
        InvalidInputError,
        "The stack has no service nope.",
    ),
    (
        "ERROR: No such service: nope\n",
        InvalidInputError,
        "The stack has no service nope.",
    ),
    (
        (
            "failed to create network hive_inside: Error response from daemon: could not find an "
            "available, non-overlapping IPv4 address pool among the defaults to assign to the "
            "network\n"
        ),
        StackError,
        (
            "The container engine has no addresses left for another network: remove networks that "
            "nothing uses (`docker network prune`)."
        ),
    ),
    (
        (
            "Error response from daemon: toomanyrequests: You have reached your unauthenticated "
            "pull "
            "rate limit. https://www.docker.com/increase-rate-limit\n"
        ),
        StackError,
        "The registry refuses, for too many requests: wait, or log in to it (`docker login`).",
    ),
]


@pytest.mark.parametrize(("output", "kind", "sentence"), RECORDED)
def test_what_is_known_is_said_in_hives_words(
    output: str, kind: type[HiveError], sentence: str
) -> None:
    error = error_of(output, "It could not be done")
    assert type(error) is kind
    assert error.message == sentence


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            (
                "Step 3/9 : RUN false\n ---> Running in 0a1b\nRemoving intermediate container "
                "0a1b\n"
                "The command '/bin/sh -c false' returned a non-zero code: 1\n"
            ),
            "The command '/bin/sh -c false' returned a non-zero code: 1",
        ),
        (
            (
                "DEPRECATED: The legacy builder is deprecated and will be removed in a future "
                "release.\n            Install the buildx component to build images with "
                "BuildKit:\n"
                "            https://docs.docker.com/go/buildx/\n"
            ),
            "https://docs.docker.com/go/buildx/",
        ),
        (
            (
                "Error response from daemon: pull access denied for nosuch\n\n"
                "Run 'docker run --help' for more information\n"
            ),
            "pull access denied for nosuch",
        ),
        (
            (
                " Network t_default Creating \n Network t_default Created \n Container t-redis-1 "
                "Creating \nError response from daemon: bad thing\n"
            ),
            "bad thing",
        ),
        (
            (
                "Creating t_redis_1 ... \nCreating t_redis_1 ... done\n\nERROR: for spore  "
                "something "
                "bad\nEncountered errors while bringing up the project.\n"
            ),
            "something bad",
        ),
        ("\x1b[91mERROR: no such package\n\x1b[0m\n", "no such package"),
        ("", ""),
    ],
)
def test_of_what_is_not_known_the_last_line_that_tells_something(output: str, line: str) -> None:
    assert last_line(output) == line
    assert error_of(output, "It was not done").message == (
        f"It was not done: {line or 'the container engine gave no reason'}."
    )


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (RDB_LOG, RECORDED[8][2]),
        (
            "a warning\nhive: REDIS_PORT cannot be 'x': it is no number.\nlast words\n",
            "REDIS_PORT cannot be 'x': it is no number.",
        ),
        ("one\ntwo\n\n", "two"),
        ("", "(it has said nothing)"),
    ],
)
def test_why_a_container_does_not_serve_is_read_from_its_log(log: str, reason: str) -> None:
    assert reason_in_log(log) == reason
