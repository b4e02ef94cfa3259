"""Bringing back what the dead held, and what cannot start where it was placed."""

from __future__ import annotations

import time

from hive.broker.channel import steps
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import BrokerClient
from hive.broker.nodes.process import known_processes
from hive.foreman.watch.duty import Watch
from hive.foreman.watch.rooms import Hooks, OnRestored
from hive.logs import get_logger

log = get_logger(__name__)

PLACED_WAIT_MS = 1000
_NONE = Hooks()
SETTLE_EVERY = 5.0
"""Seconds between two looks at who has been away for long."""


class Restorer:
    """Restores every incarnation whose heartbeats have stopped.

    Of most nothing is known but their silence: it counts only as far as others are heard, and is no
    death yet. A process that has ended on this very machine is known to be dead.

    hooks: called one after the other for each that held something.
    """

    def __init__(self, hooks: Hooks = _NONE) -> None:
        self._hooks = hooks
        self._settled_at = 0.0

    def restore(self, watch: Watch) -> int:
        """Restore the silent, once the broker has answered for as long as a death takes.

        Before that, after a frozen or restarted broker, every node looks dead.

        Returns: how many incarnations were silent. Raises: redis errors, what a hook raised.
        """
        client = watch.client
        silence = int(client.settings.dead_after * 1000)
        before = client.now_ms() - silence
        silent = [
            raw.decode() for raw in client.redis.zrangebyscore(client.key("beats"), "-inf", before)
        ]
        processes = known_processes(client) if silent else {}
        ended = {name for name in silent if name in processes and processes[name].has_ended}
        heard = watch.answering >= client.settings.dead_after
        absent = [name for name in silent if heard and name not in ended]
        restored = [self._restored(client, name, "died") for name in ended]
        gone = [self._restored(client, name, silence) for name in absent]
        self._settle(client)
        _tell(client, (self._hooks.died, restored), (self._hooks.absent, gone))
        return sum(ids is not None for ids in (*restored, *gone))

    def restore_ended(self, client: BrokerClient, node_id: str) -> int:
        """Restore a node's processes that have ended on this machine, without waiting for silence.

        Returns: how many they were. Raises: redis errors, what a hook raised.
        """
        ended = [
            name
            for name, process in known_processes(client).items()
            if name.rpartition("/")[0] == node_id and process.has_ended
        ]
        _tell(client, (self._hooks.died, [self._restored(client, name, "died") for name in ended]))
        return len(ended)

    def _restored(
        self, client: BrokerClient, incarnation: str, known: int | str
    ) -> list[str] | None:
        """Restore one. known: "died", or for how many ms it must have been silent.

        Returns: the publish ids that it held; None when it is alive after all.
        """
        node_id = incarnation.rpartition("/")[0]
        fate = "died" if known == "died" else "is not heard of"
        terms = (known, client.settings.hive_max_retries, f"node {node_id} {fate}")
        reply = client.run(steps.RESTORE, (), (client.prefix, node_id, incarnation, *terms))
        if reply[0] < 0:
            return None
        restored = [publish_id.decode() for publish_id in reply[2:]]
        log.warning(
            "node_dead" if known == "died" else "node_silent",
            incarnation=incarnation,
            restored=len(restored),
            unplaced=int(reply[1]),
        )
        return restored

    def _settle(self, client: BrokerClient) -> None:
        """Once in a while: who has not come back for long counts as dead."""
        if time.monotonic() - self._settled_at < SETTLE_EVERY:
            return
        longest = client.settings.hive_zombie_task_timeout
        terms = (int(longest * 1000), client.settings.hive_max_retries)
        reason = f"its node was not heard of for {longest:g} s"
        counted = client.run(steps.LONG_ABSENT, (), (client.prefix, *terms, reason))
        self._settled_at = time.monotonic()
        if counted:
            log.warning("absences_count_as_deaths", count=int(counted))


def _tell(
    client: BrokerClient, *told: tuple[tuple[OnRestored, ...], list[list[str] | None]]
) -> None:
    """Tell the rooms. What one of them raises hinders neither another nor the next dead."""
    faults: list[Exception] = []
    for hooks, restored in told:
        for ids in filter(None, restored):
            for hook in hooks:
                try:
                    hook(client, ids)
                except Exception as error:  # noqa: BLE001 - it is raised once all are told
                    faults.append(error)
    if faults:
        raise faults[0]


def unplace(watch: Watch) -> None:
    """Send back what is bound to a node and could not start there within a second.

    It goes to the shared queue. Raises: redis errors.
    """
    client = watch.client
    for raw in client.redis.hkeys(client.key("nodes", "static")):
        moved = client.run(steps.UNPLACE, (), (client.prefix, raw, PLACED_WAIT_MS))
        if moved:
            log.info("placed_given_back", node_id=raw.decode(), count=int(moved))


def tell_dead_letters(watch: Watch) -> None:
    """Store FAILURE for new dead letters, so that nobody waits for their results for ever.

    Raises: redis errors, and those of the application's result backend.
    """
    client = watch.client
    untold: list[bytes] = client.redis.srandmember(client.key("untold"), 100)
    DeadLetters(watch.app, client).tell([raw.decode() for raw in untold])
