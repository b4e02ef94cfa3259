"""Every error that Hive raises for its users, in one flat family under HiveError."""

from __future__ import annotations

from typing import Literal


class HiveError(Exception):
    """Something went wrong in Hive."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((self.__doc__ or "").split()))

    @property
    def message(self) -> str:
        return str(self.args[0])


class SettingsError(HiveError):
    """A setting has a value that Hive cannot use."""

    exit_code = 2


class StoredFormatError(HiveError):
    """The hive's data has a format that this release of Hive cannot serve."""

    exit_code = 2


class InvalidInputError(HiveError):
    """What was handed in cannot be used as it is."""

    exit_code = 2


class UnknownSkillError(InvalidInputError):
    """No skill has that name or fits that description; `hive skills` lists the known ones."""


class UnknownJobError(HiveError):
    """No job has that id, or its results have expired."""


class OutcomesDroppedError(HiveError):
    """The job's first outcomes were dropped after its caller had read them."""


class JobFailedError(HiveError):
    """The job ended without an answer."""


class DuplicateTaskError(HiveError):
    """That task id was used for another task; choose a new one."""


class UnknownTaskError(HiveError):
    """No task has that id, or its record has expired."""


class UnknownNodeError(HiveError):
    """No node of that name is online; `hive node list` shows the known ones."""


class NodeNameTakenError(HiveError):
    """A node of that name is alive on another machine; give this one another name."""


class DeadLetterError(HiveError):
    """The task's process or node died under it too often; it is a dead letter now and does not run
    again by itself.
    """


class TaskExitError(HiveError):
    """The task called `sys.exit`, or raised what is no Exception."""


class TaskFailedError(HiveError):
    """The task said that it failed; it gave no reason.

    `meta` is what it gave instead of an exception (`update_state(state="FAILURE", meta=…)`).
    """

    def __init__(self, message: str | None = None, *, meta: object = None) -> None:
        super().__init__(message or "The task said that it failed; it gave no reason.")
        self.meta = meta


class NoEligibleNodeError(HiveError):
    """No known node can ever run this task; start a node that offers what it requires."""


class NoNodeOnlineError(HiveError):
    """No node is online; start one with `hive spore`."""

    exit_code = 3


class ClusterUnreachableError(HiveError):
    """The cluster does not answer."""

    exit_code = 3


class BrokerUnreachableError(ClusterUnreachableError):
    """The broker does not answer; check REDIS_HOST, REDIS_PORT and that the server runs.

    `outcome` says what became of a publication that was under way: "unsent" (it is safe to send it
    again), "unknown" (the broker may have accepted it: only its reply is missing) or None where
    nothing was being published. Sending again under `publish_id` makes no second task while the
    first is unfinished, nor in the four minutes after it; under `task_id` as well, its result is
    found whichever of them was accepted.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        outcome: Literal["unsent", "unknown"] | None = None,
        publish_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(
            message
            or "The broker does not answer; check REDIS_HOST, REDIS_PORT and that the server runs."
        )
        self.outcome = outcome
        self.publish_id = publish_id
        self.task_id = task_id


class QueueFullError(HiveError):
    """The queue is full; nothing was sent.

    Send it later, start more spores, or raise HIVE_QUEUE_LIMIT.

    `queue` is its name, `limit` how many messages may wait in it.
    """

    def __init__(self, message: str | None = None, *, queue: str = "", limit: int = 0) -> None:
        super().__init__(
            message
            or "The queue is full; nothing was sent. "
            "Send it later, start more spores, or raise HIVE_QUEUE_LIMIT."
        )
        self.queue = queue
        self.limit = limit


class BrokerMemoryError(HiveError):
    """The broker is out of memory and takes nothing new; send it again when spores have worked off
    what waits, or raise its maxmemory.
    """


class BrokerAuthError(ClusterUnreachableError):
    """The broker refused the credentials; check REDIS_USERNAME and REDIS_PASSWORD."""


class BrokerStartError(HiveError):
    """The embedded broker could not be started."""


class StateDirectoryError(HiveError):
    """The state directory cannot be used."""


class PortInUseError(HiveError):
    """A port that Hive was told to listen on is taken by another program."""


class FetchError(HiveError):
    """The address could not be fetched."""


class ScanError(HiveError):
    """The path could not be scanned."""
