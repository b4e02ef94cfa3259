"""Bringing back what the dead held, and what cannot start where it was placed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import redis

from hive.broker.channel import steps
from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import passes
from hive.broker.nodes.process import known_processes
from hive.foreman.watch.duty import Watch
from hive.foreman.watch.look import PLACED_WAIT_MS
from hive.foreman.watch.rooms import OnRestored
from hive.logs import get_logger

log = get_logger(__name__)

SETTLE_EVERY = 5.0
"""Seconds between two looks at who has been away for long."""
UNPLACED_AT_ONCE = 1000
"""How many of the tasks that wait at nodes one tick looks at; the broker does nothing else then."""


class Restorer:
    """Restores every incarnation whose heartbeats have stopped.

    Of most nothing is known but their silence: it counts only as far as others are heard, and is no
    death yet. A process that has ended on this very machine is known to be dead.

    hooks: called one after the other for each that held something.
    """

    def __init__(self, hooks: tuple[OnRestored, ...] = ()) -> None:
        self._hooks = hooks
        self._settled_at = 0.0

    def restore(self, watch: Watch) -> int:
        """Restore the silent, once the broker has answered for as long as a death takes.

        Before that, after a frozen or restarted broker, every node looks dead.

        Returns: how many incarnations that were. Raises: redis errors, what a hook raised.
        """
        client, silent = watch.client, watch.look.silent
        silence = int(client.settings.dead_after * 1000)
        processes = known_processes(client) if silent else {}
        ended = [name for name in silent if name in processes and processes[name].has_ended]
        missed = silent if silent and _others_are_heard(watch, silence) else ()
        absent = [name for name in missed if name not in ended]
        faults: list[Exception] = []
        restored = _restored(client, ended, "died", faults)
        restored += _restored(client, absent, silence, faults)
        _tell(client, self._hooks, restored, faults)
        self._settle(client)
        if faults:
            raise faults[0]
        return len(restored)

    def restore_ended(self, client: BrokerClient, node_id: str) -> int:
        """Restore a node's processes that have ended on this machine, without waiting for silence.

        Returns: how many they were. Raises: redis errors, what a hook raised.
        """
        ended = [
            name
            for name, process in known_processes(client).items()
            if name.rpartition("/")[0] == node_id and process.has_ended
        ]
        faults: list[Exception] = []
        _tell(client, self._hooks, _restored(client, ended, "died", faults), faults)
        if faults:
            raise faults[0]
        return len(ended)

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


def _others_are_heard(watch: Watch, silence: int) -> bool:
    """Whether anybody can be missed: the broker has answered for as long as a death takes, and some
    node is heard. For how long others were heard lua/restore.lua sees, for each by itself.
    """
    look = watch.look
    answers = watch.answering >= watch.client.settings.dead_after
    return answers and look.now - look.newest_beat <= silence


def _restored(
    client: BrokerClient, incarnations: Iterable[str], known: int | str, faults: list[Exception]
) -> list[list[str]]:
    """Restore them one by one; what is wrong with one hinders no other, and is added to `faults`.

    known: "died", or for how many ms they must have been silent.

    Returns: the publish ids that each of them held that was not alive after all.
    """
    fate = "died" if known == "died" else "is not heard of"
    held = []
    for incarnation in incarnations:
        node_id = incarnation.rpartition("/")[0]
        terms = (known, client.settings.hive_max_retries, f"node {node_id} {fate}")
        try:
            reply = client.run(steps.RESTORE, (), (client.prefix, node_id, incarnation, *terms))
        except redis.exceptions.RedisError as error:
            if passes(error):
                raise
            faults.append(error)
            continue
        if reply[0] < 0:
            continue
        held.append([publish_id.decode() for publish_id in reply[2:]])
        log.warning(
            "node_dead" if known == "died" else "node_silent",
            incarnation=incarnation,
            restored=len(held[-1]),
            unplaced=int(reply[1]),
        )
    return held


def _tell(
    client: BrokerClient,
    hooks: tuple[OnRestored, ...],
    restored: list[list[str]],
    faults: list[Exception],
) -> None:
    """Tell the rooms. What one of them raises hinders neither another nor the next dead."""
    for ids in filter(None, restored):
        for hook in hooks:
            try:
                hook(client, ids)
            except Exception as error:  # noqa: BLE001 - it is raised once all are told
                faults.append(error)


def unplace(watch: Watch) -> None:
    """Send back what is bound to a node and could not start there within a second.

    It goes to the shared queue. Raises: redis errors.
    """
    client, nodes = watch.client, watch.look.waiting
    if not nodes:
        return
    # In another order each time: what is pinned to one node must not hide the others for ever.
    order = random.sample(nodes, len(nodes))
    arguments = (client.prefix, PLACED_WAIT_MS, UNPLACED_AT_ONCE, *order)
    moved = client.run(steps.UNPLACE, (), arguments)
    for node_id, count in zip(moved[::2], moved[1::2], strict=True):
        log.info("placed_given_back", node_id=node_id.decode(), count=int(count))
