"""Bringing back what the dead held, and what cannot start where it was placed."""

from __future__ import annotations

from hive.broker.channel import steps
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import BrokerClient
from hive.foreman.watch.duty import Watch
from hive.foreman.watch.rooms import OnRestored
from hive.logs import get_logger

log = get_logger(__name__)

PLACED_WAIT_MS = 1000


class Restorer:
    """Restores every incarnation whose heartbeats have stopped.

    on_restored: hooks, called one after the other for each that was dead and held something.
    """

    def __init__(self, on_restored: tuple[OnRestored, ...] = ()) -> None:
        self._on_restored = on_restored

    def restore(self, watch: Watch) -> int:
        """Restore the dead, once the broker has answered for as long as a death takes.

        Before that, after a frozen or restarted broker, every node looks dead.

        Returns: how many incarnations were dead. Raises: redis errors, what a hook raised.
        """
        client = watch.client
        if watch.answering < client.settings.dead_after:
            return 0
        silence = int(client.settings.dead_after * 1000)
        before = client.now_ms() - silence
        dead = 0
        faults: list[Exception] = []
        for raw in client.redis.zrangebyscore(client.key("beats"), "-inf", before):
            restored = self._restored(client, raw.decode(), silence)
            if restored is None:
                continue
            dead += 1
            faults += self._told(client, restored)
        if faults:
            raise faults[0]
        return dead

    def _restored(self, client: BrokerClient, incarnation: str, silence: int) -> list[str] | None:
        """The publish ids that it held; None when it is alive after all."""
        node_id = incarnation.rpartition("/")[0]
        fate = (silence, 1, client.settings.hive_max_retries, f"node {node_id} died")
        reply = client.run(steps.RESTORE, (), (client.prefix, node_id, incarnation, *fate))
        if reply[0] < 0:
            return None
        restored = [publish_id.decode() for publish_id in reply[2:]]
        log.warning(
            "node_dead", incarnation=incarnation, restored=len(restored), unplaced=int(reply[1])
        )
        return restored

    def _told(self, client: BrokerClient, restored: list[str]) -> list[Exception]:
        """Tell the rooms. What one of them raises hinders neither another nor the next dead."""
        faults: list[Exception] = []
        for hook in self._on_restored if restored else ():
            try:
                hook(client, restored)
            except Exception as error:  # noqa: BLE001 - it is raised once all are restored
                faults.append(error)
        return faults


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
