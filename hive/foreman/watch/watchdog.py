"""The Foreman's watchdog: once a second, under a lease, it does the duties that are due."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable

import redis
from celery import Celery

from hive.broker.ledger.aside import naming_its_key
from hive.broker.link.client import BrokerClient
from hive.broker.link.format import require_format
from hive.broker.link.outage import passes
from hive.errors import StoredFormatError
from hive.foreman.watch.duties import duties_of
from hive.foreman.watch.duty import Duty, Roster, Watch
from hive.foreman.watch.lease import Lease
from hive.foreman.watch.rooms import OnRestored
from hive.logs import get_logger

log = get_logger(__name__)

TICK = 1.0
STAND_IN_TICK = 4.0
STAND_IN_PATIENCE = 10.0
LEASE_NAME = "foreman"
LEASE_SECONDS = 4.0
TELL_AGAIN = 60.0  # seconds between two lines about one outage


class Watchdog:
    """Recovers work. Several may run; the one that holds the lease acts.

    on_restored: called when what a dead incarnation held is home, besides the hooks of the
        application's rooms.
    patience: seconds for which nobody must have held the lease before this one takes it, for a few
        seconds at a time.
    """

    def __init__(
        self,
        client: BrokerClient,
        app: Celery,
        on_restored: OnRestored | None = None,
        *,
        patience: float = 0.0,
    ) -> None:
        """Raises: InvalidInputError when two duties of the application have one name."""
        # It has a connection of its own, on which no wait is longer than a beat: only a broker that
        # answers in time can be trusted to have heard heartbeats.
        self.client = client.with_timeout(max(0.5, client.settings.hive_heartbeat_interval))
        self.app = app
        self.last_tick: float | None = None
        self.roster = Roster(duties_of(app, self.client, on_restored))
        self._tick = STAND_IN_TICK if patience else TICK
        holder = f"{socket.gethostname()}:{secrets.token_hex(4)}"
        self._lease = Lease(
            self.client, LEASE_NAME, holder, seconds=LEASE_SECONDS, patience=patience
        )
        self._answering_since: float | None = None

    @classmethod
    def stand_in(cls, client: BrokerClient, app: Celery) -> Watchdog:
        """A watchdog for a spore: it acts only while no nexus does, and gives way to the next."""
        return cls(client, app, patience=STAND_IN_PATIENCE)

    @property
    def holder(self) -> str:
        """By which the lease knows this watchdog."""
        return self._lease.holder

    @property
    def leads(self) -> bool:
        """Whether it held the lease at its last tick."""
        return self._lease.held

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; then give the lease up. A broker that is away is waited for."""
        silent_until = 0.0
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.tick()
                self.last_tick, silent_until = time.time(), 0.0
            except redis.exceptions.RedisError as error:
                self._answering_since = None
                if began >= silent_until:
                    silent_until = began + TELL_AGAIN
                    log.warning("watchdog_waits_for_broker", error=str(error))
            except StoredFormatError as error:
                log.error("watchdog_refuses", reason=error.message)
            stop.wait(max(0.05, self._tick - (time.monotonic() - began)))
        try:
            self._lease.give_up()
        except redis.exceptions.RedisError as error:
            log.warning("lease_not_given_up", error=str(error))
        self.client.close()

    def tick(self) -> None:
        """One round: take the lease, and do what is due.

        Raises: StoredFormatError for data that this release does not serve, redis errors of a
            broker that does not answer. What a duty raises is its own failure
            (`hive status` names it), and the other duties are done all the same.
        """
        require_format(self.client)
        asked = time.monotonic()
        led, leads = self._lease.held, self._lease.take()
        watch = Watch(self.client, self.app, self._answering(asked))
        if not leads:
            for duty in self.roster.duties:
                if duty.witness is not None:
                    self._do(duty, duty.witness, watch)
            return
        if not led:
            self.roster.forget_told()
        for duty in self.roster.due():
            self._do(duty, duty.act, watch)
        self.roster.tell(self.client)

    def _do(self, duty: Duty, step: Callable[[Watch], object], watch: Watch) -> None:
        try:
            step(watch)
        except KeyboardInterrupt:
            raise
        # One duty's failure hinders no other: not when it is a SystemExit or a cancellation either,
        # of which the watchdog would end without a word.
        except BaseException as error:  # noqa: BLE001
            if passes(error):
                # If this broker is away, it says so here, and all duties wait; else it was another
                # server of the application's, and this duty's own failure.
                self.client.redis.ping()
            self.roster.failed(duty, naming_its_key(self.client, error))
        else:
            self.roster.succeeded(duty)

    def _answering(self, asked: float) -> float:
        """Seconds for which the broker has answered within half a beat, this time as well."""
        now = time.monotonic()
        if now - asked > self.client.settings.hive_heartbeat_interval / 2:
            self._answering_since = None
            return 0.0
        if self._answering_since is None:
            self._answering_since = now
        return now - self._answering_since
