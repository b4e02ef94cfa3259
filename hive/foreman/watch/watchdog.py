"""The Foreman's watchdog: once a second, under a lease, it brings back what the dead held, what
waits at a busy node, and zombies.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable

import redis
from celery import Celery

from hive.broker.channel import steps
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script
from hive.foreman.watch.account import Auditor
from hive.foreman.watch.sweep import Sweeper
from hive.foreman.watch.zombies import ZombieFinder
from hive.logs import get_logger

log = get_logger(__name__)

TICK = 1.0
STAND_IN_TICK = 4.0
STAND_IN_PATIENCE = 10.0
LEASE_NAME = "foreman"
LEASE_SECONDS = 4.0
PLACED_WAIT_MS = 1000

LEASE = Script("hive.foreman.watch", "lease", include=(steps.LIBRARY,))


class Watchdog:
    """Recovers work. Several may run; the one that holds the lease acts.

    on_restored: called with the publish ids that an incarnation held when it died, after they went
        home.
    patience: seconds for which nobody must have held the lease before this one takes it, for a few
        seconds at a time.
    """

    def __init__(
        self,
        client: BrokerClient,
        app: Celery,
        on_restored: Callable[[list[str]], object] | None = None,
        *,
        patience: float = 0.0,
    ) -> None:
        # A connection of its own, and no wait longer than a beat: only a broker that answers may be
        # trusted to have heard heartbeats.
        self.client = client.with_timeout(max(0.5, client.settings.hive_heartbeat_interval))
        self.app = app
        self.holder = f"{socket.gethostname()}:{secrets.token_hex(4)}"
        self.patience = patience
        self.leads = False
        self.last_tick: float | None = None
        self._on_restored = on_restored
        self._zombies = ZombieFinder(self.client)
        self._dead_letters = DeadLetters(app, self.client)
        self._auditor = Auditor(self.client)
        self._sweeper = Sweeper(self.client)
        self._answering_since: float | None = None

    @classmethod
    def stand_in(cls, client: BrokerClient, app: Celery) -> Watchdog:
        """One for a spore: it acts only while no nexus does,
        and gives way to the next that starts.
        """
        return cls(client, app, patience=STAND_IN_PATIENCE)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; then give the lease up. A broker that is away is waited for."""
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.tick()
                self.last_tick = time.time()
            except redis.exceptions.RedisError as error:
                self._answering_since = None
                log.warning("watchdog_waits_for_broker", error=str(error))
            stop.wait(
                max(0.05, (STAND_IN_TICK if self.patience else TICK) - (time.monotonic() - began))
            )
        try:
            self.client.run(LEASE, (), (self.client.prefix, LEASE_NAME, self.holder, 0))
        except redis.exceptions.RedisError as error:
            log.warning("lease_not_given_up", error=str(error))
        self.client.close()

    def tick(self) -> None:
        """One round. Raises redis errors."""
        asked = time.monotonic()
        terms = (LEASE_NAME, self.holder, int(LEASE_SECONDS * 1000), int(self.patience * 1000))
        held, _, _ = self.client.run(LEASE, (), (self.client.prefix, *terms))
        if bool(held) != self.leads:
            self.leads = bool(held)
            log.info("lease_taken" if held else "lease_lost", holder=self.holder)
        now = time.monotonic()
        interval = self.client.settings.hive_heartbeat_interval
        if now - asked > interval / 2:
            self._answering_since = None
        elif self._answering_since is None:
            self._answering_since = now
        if not self.leads:
            self._auditor.witness()
            return
        # After a frozen or restarted broker every node looks dead at once: it must have answered as
        # long as a death takes.
        if (
            self._answering_since is not None
            and now - self._answering_since >= self.client.settings.dead_after
        ):
            self.restore_dead()
        self.unplace()
        self.retry_zombies()
        self.tell_dead_letters()
        self._auditor.audit()
        self._sweeper.sweep()

    def restore_dead(self) -> int:
        """Restore every incarnation whose heartbeats have stopped; returns how many there were."""
        silence = int(self.client.settings.dead_after * 1000)
        seconds, microseconds = self.client.redis.time()
        before = int(seconds) * 1000 + int(microseconds) // 1000 - silence
        dead = 0
        for raw in self.client.redis.zrangebyscore(self.client.key("beats"), "-inf", before):
            incarnation = raw.decode()
            node_id = incarnation.rpartition("/")[0]
            retries = self.client.settings.hive_max_retries
            arguments = (
                self.client.prefix,
                node_id,
                incarnation,
                silence,
                1,
                retries,
                f"node {node_id} died",
            )
            reply = self.client.run(steps.RESTORE, (), arguments)
            if reply[0] < 0:
                continue
            dead += 1
            restored = [publish_id.decode() for publish_id in reply[2:]]
            log.warning(
                "node_dead", incarnation=incarnation, restored=len(restored), unplaced=int(reply[1])
            )
            if self._on_restored is not None and restored:
                self._on_restored(restored)
        return dead

    def unplace(self) -> None:
        """What was bound to a node and could not start there within a second goes back to the
        shared queue.
        """
        for raw in self.client.redis.hkeys(self.client.key("nodes", "static")):
            moved = self.client.run(steps.UNPLACE, (), (self.client.prefix, raw, PLACED_WAIT_MS))
            if moved:
                log.info("placed_given_back", node_id=raw.decode(), count=int(moved))

    def retry_zombies(self) -> None:
        """Give back what a live incarnation has reserved but no longer knows, or has run for too
        long.
        """
        retries = self.client.settings.hive_max_retries
        for zombie in self._zombies.find():
            reservation = f"{zombie.publish_id}\x1f{zombie.reserved_at}"
            arguments = (
                self.client.prefix,
                zombie.node_id,
                zombie.incarnation,
                1,
                retries,
                zombie.reason,
                reservation,
            )
            if self.client.run(steps.GIVE_BACK, (), arguments):
                log.warning(
                    "zombie_retried",
                    task_id=zombie.task_id,
                    node_id=zombie.node_id,
                    reason=zombie.reason,
                )

    def tell_dead_letters(self) -> None:
        """Store FAILURE for new dead letters, so that nobody waits for their results for ever."""
        self._dead_letters.tell(
            [raw.decode() for raw in self.client.redis.srandmember(self.client.key("untold"), 100)]
        )
