"""What one worker process holds of the broker's messages.

Reservations, and the note of what is held, belong to the process and not to a channel: Celery
closes its connection at any error, while the tasks that it was running go on. Each new consuming
channel attaches, under a new epoch.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import redis

from hive.broker.channel import steps
from hive.broker.channel.entries import UNREADABLE, reservation
from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import passes
from hive.errors import NodeNameTakenError
from hive.logs import get_logger

log = get_logger(__name__)

Outcome = Literal["completed", "failed", "retried", "revoked"]


class Held(NamedTuple):
    """A message handed over to this process and not finished.

    reserved: when, in ms of the broker's clock.
    limit: the task's hard time limit in seconds, 0 for none, where only the worker knows it.
    """

    task_id: str
    reserved: int
    limit: float | None = None


class Wait(NamedTuple):
    """Why a message that was taken does not start yet, and waits in the broker.

    task: whose rate limit has no token for it; "" where it is not due. ms: until it is back at the
    latest; 0 where only the rate limit says when.
    """

    task: str
    ms: int


class Return(NamedTuple):
    """A message on its way back to its queue, which the broker has not confirmed yet.

    wait: it goes to those that wait in the broker instead. most: with more deaths than this it
    becomes a dead letter; None for HIVE_MAX_RETRIES.
    """

    reserved: int
    deaths: int
    reason: str
    wait: Wait | None = None
    most: int | None = None


_LONGEST_REASON = 300
UNREAD = "?"
"""In a heartbeat's line: a reserve was sent whose answer has not been read. What it took is not
lost, but not known yet.
"""


class Acknowledgement(NamedTuple):
    """A finished message whose acknowledgement the broker has not confirmed yet."""

    task_id: str
    outcome: Outcome


class Incarnation:
    """One start of a node's worker process.

    When the cluster has taken it for dead, it attaches again, and gets back what nobody else has
    begun.

    Thread-safe: acknowledgements come from pool threads, heartbeats from a thread of their own.
    """

    def __init__(self, client: BrokerClient, node_id: str, slots: int, process: str = "") -> None:
        """process: which process it is, as JSON (hive.broker.nodes.process)."""
        self.client = client
        self.node_id = node_id
        self.id = f"{node_id}/{secrets.token_hex(4)}"
        self.attached = False
        self.process = process
        self.slots = slots
        self.pid = os.getpid()
        self.stopping = False
        self.draining = False
        self.polling = False
        self.asked_at: float | None = None
        # When a question for work was last answered, and when the event loop last made a turn.
        self.answered_at = self.turned_at = boottime()
        self.requirement_queues: tuple[str, ...] = ()
        self.confirmed_beat = 0.0
        self.nudge: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._held: dict[str, Held] = {}
        self._done: dict[str, Acknowledgement] = {}
        self._returns: dict[str, Return] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._reasons: dict[str, str] = {}
        self._taken_away: set[str] = set()
        self._epoch = 0

    # -- what the channel asks

    @property
    def free_slots(self) -> int:
        """Slots that reserve may fill: all but those of taken-away runs that still go on here."""
        return 0 if self.draining or self.stopping else self.slots - len(self._taken_away)

    @property
    def held_count(self) -> int:
        """Messages handed over to this process and not finished."""
        return len(self._held)

    def can_consume(self) -> bool:
        # A draining node asks, too: reserve takes nothing then, and keeps the connection attached.
        return not self.stopping and len(self._held) + len(self._taken_away) < self.slots

    def owns(self, tag: str) -> bool:
        return tag in self._held or tag in self._taken_away

    def held_line(self) -> str:
        """What the heartbeat tells: publish ids.

        Where only the worker knows a task's hard limit, it follows as `:<seconds>`.

        Among them are those that are finished and wait to be acknowledged, or to be given back: the
        watchdog must not take them for lost, and have them run again. UNREAD is among them while an
        answer is outstanding.
        """
        with self._lock:
            held = [
                tag if held.limit is None else f"{tag}:{held.limit:g}"
                for tag, held in self._held.items()
            ]
            unread = [UNREAD] if self.asked_at is not None else []
            return " ".join([*held, *self._done, *self._returns, *unread])

    def asks(self) -> None:
        """Note that a reserve is about to be sent.

        Until the answer is read, or a new connection has attached, this process may have taken
        more.
        """
        if self.asked_at is None:
            self.asked_at = boottime()

    def answered(self) -> None:
        """Note that what the last reserve took is held now, or that it took nothing."""
        self.asked_at = None
        self.answered_at = boottime()

    def refused(self) -> None:
        """Note that the broker has answered, if only to refuse: this worker does not hang.

        What the question may have taken is still not known.
        """
        self.answered_at = self.turned_at = boottime()

    def turned(self) -> None:
        """Note that the event loop has made a turn."""
        self.turned_at = boottime()

    def fresh_until(self) -> float:
        """Until when (boottime) the newest messages were certain to count as this incarnation's."""
        asked = self.asked_at
        return self.confirmed_beat if asked is None else min(self.confirmed_beat, asked)

    def note_limit(self, tag: str, limit: float) -> None:
        """Note the hard time limit, in seconds, of a held message that does not tell it itself."""
        with self._lock:
            if tag in self._held:
                self._held[tag] = self._held[tag]._replace(limit=limit)

    def attach(self) -> int:
        """Announce a new consuming connection; returns its epoch.

        What the broker thinks is reserved but this process does not know goes back to its queue.

        Raises: redis errors, NodeNameTakenError.
        """
        asked_at = boottime()
        with self._lock:
            self._epoch += 1
            epoch, first = self._epoch, "0" if self.attached else "1"
            held = [*self._held, *self._done, *self._returns]
        settings = self.client.settings
        # The lock is free meanwhile: a slow broker must not hold up the heartbeats.
        arguments = (self.node_id, self.id, epoch, first, self.process, settings.away_after_ms)
        reply = self.client.run(steps.ATTACH, (), (self.client.prefix, *arguments, *held))
        if reply[0] == b"taken":
            raise NodeNameTakenError(
                f"A node called {self.node_id} is alive on another machine"
                f"{_known_as(reply[1].decode(errors='replace'))}. Give this one another name "
                "(HIVE_NODE_NAME, or -n), or end the other first."
            )
        if reply[0] == b"late":
            # Another thread's was there first, and this one does not know what came with it.
            return self.attach()
        given_back, lost = reply[1], [tag.decode() for tag in reply[2]]
        with self._lock:
            self.attached = True
            self.confirmed_beat = asked_at
            self.answered()
            self._forget(lost)
            self._reserved_anew(int(reply[3]), held, lost)
        if given_back:
            log.warning(
                "reservations_given_back",
                incarnation=self.id,
                count=len(given_back),
                reason="unknown to this process",
            )
        return epoch

    def _reserved_anew(self, at: int, told: list[str], lost: list[str]) -> None:
        """Note that all it holds was reserved at that moment (ms) by attaching; 0: it was not.

        told: what attaching said that it holds. What it has given back in the meantime was not yet
        its own then, and goes back now.
        """
        if not at:
            return
        self._held = {tag: held._replace(reserved=at) for tag, held in self._held.items()}
        self._returns = {tag: back._replace(reserved=at) for tag, back in self._returns.items()}
        known = {*self._held, *self._done, *self._returns, *lost}
        for tag in told:
            if tag not in known:
                self._returns[tag] = Return(at, 0, "it was given back while its node came back")

    def _forget(self, lost: list[str]) -> None:
        """Others have begun these while this incarnation was taken for dead.

        What still runs of them runs on, and leaves no trace.
        """
        for tag in lost:
            if self._held.pop(tag, None) is not None:
                self._taken_away.add(tag)
            self._done.pop(tag, None)
            self._returns.pop(tag, None)
        if lost:
            log.error("runs_taken_away", incarnation=self.id, count=len(lost))

    def come_back(self) -> None:
        """The cluster has taken this incarnation for dead: tell it that it lives.

        Raises: redis errors.
        """
        log.warning("incarnation_fenced", incarnation=self.id, held=len(self._held))
        self.attach()

    def hold(self, epoch: int, taken: Iterable[tuple[str, str, int]]) -> bool:
        """Note what was reserved under an epoch: publish id, task id, and when (ms).

        Returns: False when there is a newer epoch: attaching under it has given them back.
        """
        with self._lock:
            if epoch != self._epoch:
                return False
            for tag, task_id, reserved in taken:
                self._returns.pop(tag, None)  # it was taken again, and so had reached its queue
                self._held[tag] = Held(task_id, reserved)
            return True

    # -- acknowledgements

    def note_outcome(self, tag: str, outcome: Outcome | None) -> None:
        """How a message of ours that is still to be acknowledged ended; None takes it back."""
        if outcome is None:
            self._outcomes.pop(tag, None)
        elif self.owns(tag):
            self._outcomes[tag] = outcome

    def note_reason(self, tag: str, reason: str) -> None:
        """Why a message of ours that is about to be rejected goes back to its queue."""
        if self.owns(tag):
            self._reasons[tag] = reason

    def send_home(self, tag: str) -> None:
        """Give back a message that was rejected, for the reason that `note_reason` gave."""
        self.give_back([tag], deaths=1, reason=self._reasons.pop(tag, "it was rejected"))

    def acknowledge(self, tag: str, outcome: Outcome = "completed") -> None:
        """Note a message as finished, with the outcome that `note_outcome` gave, or else `outcome`.

        The next reserve, or `flush`, tells the broker.
        """
        with self._lock:
            outcome = self._outcomes.pop(tag, outcome)
            if tag in self._taken_away:
                self._taken_away.discard(tag)
                return
            held = self._held.pop(tag, None)
            if held is not None:
                self._done[tag] = Acknowledgement(held.task_id, outcome)

    def unconfirmed(self) -> list[tuple[str, Acknowledgement]]:
        with self._lock:
            return list(self._done.items())

    def confirm(self, tags: Iterable[str]) -> None:
        with self._lock:
            for tag in tags:
                self._done.pop(tag, None)

    @property
    def has_unconfirmed(self) -> bool:
        """Whether the broker has still to be told of something that is finished, or given back."""
        return bool(self._done or self._returns)

    def flush(self) -> None:
        """Send what is noted, now. Raises redis errors; what was not confirmed stays noted.

        What the broker refuses for the sake of one message holds no other back.
        """
        refused = [*self._send_returns(), *self._send_acknowledgements()]
        if refused:
            raise refused[0]

    def _send_acknowledgements(self) -> list[redis.exceptions.ResponseError]:
        """Returns: what was refused. Raises: redis errors of a broker that is away."""
        pending = self.unconfirmed()
        if not pending:
            return []
        try:
            self._acknowledge(pending)
        except redis.exceptions.ResponseError as error:
            if passes(error) or len(pending) == 1:
                raise
        else:
            return []
        refused = []
        for one in pending:
            try:
                self._acknowledge([one])
            except redis.exceptions.ResponseError as error:
                refused.append(error)
        return refused

    def _acknowledge(self, pending: list[tuple[str, Acknowledgement]]) -> None:
        arguments = (self.client.prefix, self.node_id, self.id, *triples(pending))
        self.client.run(steps.ACKNOWLEDGE, (), arguments)
        self.confirm(tag for tag, _ in pending)

    def flush_quietly(self) -> None:
        """Flush, leaving what cannot be sent now to the next attempt."""
        try:
            self.flush()
        except redis.exceptions.RedisError as error:
            log.warning("acknowledgements_wait", incarnation=self.id, error=str(error))

    def mark_early(self, tag: str) -> bool:
        """Note in the broker that a task with early acknowledgement starts.

        A death will then drop it instead of running it again. Returns: False when it is not ours.
        """
        held = self._held.get(tag)
        return held is not None and bool(
            self.client.run(steps.MARK_EARLY, (), (self.client.prefix, self.node_id, self.id, tag))
        )

    # -- giving back

    def give_back(self, tags: Iterable[str], *, deaths: int, reason: str) -> None:
        """Return messages to their queues.

        deaths: how many to add to a message's count; 0 for one that was not started. reason: of
        what it died.

        What the broker does not confirm stays noted, and goes with the next flush.
        """
        self._return(dict.fromkeys(tags), deaths, reason)

    def bury(self, tag: str, fault: BaseException | str) -> str:
        """Make a message a dead letter at once: nobody can read it, wherever it is delivered.

        As `give_back`, what the broker does not confirm stays noted.

        Returns: the reason that the dead letter has.
        """
        said = fault if isinstance(fault, str) else f"{type(fault).__name__}: {fault}"
        # A stranger's message may be quoted in it.
        said = said.encode(errors="backslashreplace").decode()
        reason = f"{UNREADABLE}{' '.join(said.split()):.{_LONGEST_REASON}}"
        self._return({tag: None}, 1, reason, most=0)
        return reason

    def postpone(self, waits: Mapping[str, Wait]) -> None:
        """Let messages wait in the broker that cannot start yet. None counts as a death.

        As `give_back`, what the broker does not confirm stays noted.
        """
        self._return(waits, 0, "")

    def _return(
        self,
        waits: Mapping[str, Wait | None],
        deaths: int,
        reason: str,
        most: int | None = None,
    ) -> None:
        with self._lock:
            for tag, wait in waits.items():
                self._outcomes.pop(tag, None)
                self._taken_away.discard(tag)
                held = self._held.pop(tag, None)
                if held is not None:
                    self._returns[tag] = Return(held.reserved, deaths, reason, wait, most)
        try:
            refused = self._send_returns()
            if refused:
                raise refused[0]
        except redis.exceptions.RedisError as error:
            log.warning(
                "returns_wait", incarnation=self.id, count=len(self._returns), error=str(error)
            )

    def _send_returns(self) -> list[redis.exceptions.ResponseError]:
        """Send what is on its way back, a call for each fate.

        Returns: what was refused. Raises: redis errors of a broker that is away.

        Each message goes with the moment of its reservation, so that a call which is repeated, or
        comes late, leaves alone what has been reserved again.
        """
        with self._lock:
            pending = dict(self._returns)
        fates: dict[tuple[int, str, str | None, int], list[str]] = {}
        retries = self.client.settings.hive_max_retries
        for tag, back in pending.items():
            task = back.wait and back.wait.task
            most = retries if back.most is None else back.most
            fates.setdefault((back.deaths, back.reason, task, most), []).append(tag)
        refused = []
        for (deaths, reason, task, most), tags in fates.items():
            holder = (self.client.prefix, self.node_id, self.id)
            stamped = [_stamped(tag, pending[tag]) for tag in tags]
            try:
                if task is None:
                    arguments = (*holder, deaths, most, reason, *stamped)
                    self.client.run(steps.GIVE_BACK, (), arguments)
                else:
                    self.client.run(steps.POSTPONE, (), (*holder, task, *stamped))
            except redis.exceptions.ResponseError as error:
                if passes(error):
                    raise
                refused.append(error)
                continue
            with self._lock:
                for tag in tags:
                    if self._returns.get(tag) is pending[tag]:
                        del self._returns[tag]
        return refused

    def call_up(self, task: str, most: int, queues: Iterable[str]) -> tuple[int, int]:
        """Bring messages here that wait because of that task's rate limit: it is their turn.

        queues: those that this node serves.

        Returns: how many were called, and how many still wait. Raises redis errors.
        """
        arguments = (self.client.prefix, self.node_id, self.slots, task, most, *queues)
        called, left = self.client.run(steps.CALL_UP, (), arguments)
        return int(called), int(left)

    def stop(self) -> None:
        """Take nothing more.

        What a reserve under way has taken goes back now, since what runs here may go on for long.
        """
        self.stopping = True
        if self.attached:
            try:
                self.attach()
            except (redis.exceptions.RedisError, NodeNameTakenError) as error:
                log.warning("reservations_wait", incarnation=self.id, error=str(error))

    def leave(self) -> None:
        """Say goodbye: acknowledge the finished, give back the rest uncounted.

        Raises redis errors.
        """
        if self.attached:
            self.flush()
            arguments = (self.client.prefix, self.node_id, self.id, "left", 0, "left")
            reservations, placed = self.client.run(steps.RESTORE, (), arguments)[:2]
            self.attached = False
            log.info(
                "incarnation_left",
                incarnation=self.id,
                given_back=int(reservations),
                unplaced=int(placed),
            )


def _stamped(tag: str, back: Return) -> str:
    """A message on its way back, as the scripts read it."""
    stamped = reservation(tag, back.reserved)
    return stamped if back.wait is None else reservation(stamped, back.wait.ms)


def triples(pending: Iterable[tuple[str, Acknowledgement]]) -> list[str]:
    """Acknowledgements as the scripts read them: publish id, task id, outcome."""
    return [field for tag, done in pending for field in (tag, done.task_id, done.outcome)]


def _known_as(host: str) -> str:
    return f", {host}" if host and host != socket.gethostname() else " of the same host name"


def boottime() -> float:
    """Seconds since boot, also those asleep: a machine that wakes must find its heartbeats old."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


_current: Incarnation | None = None


def begin(client: BrokerClient, node_id: str, slots: int, process: str = "") -> Incarnation:
    """Make this process a spore; its channels then consume through the returned incarnation.

    process: which one it is, as JSON.
    """
    # A process has one worker, whose channels find their incarnation here: Celery makes them by
    # name.
    global _current  # noqa: PLW0603
    _current = Incarnation(client, node_id, slots, process)
    return _current


def current() -> Incarnation | None:
    """This process's incarnation; None in clients and in pool children."""
    return _current


def end() -> None:
    """Make this process no spore any more; what its incarnation holds stays as it is.

    What consumes later does so as a client.
    """
    global _current  # noqa: PLW0603
    _current = None


# A forked pool child holds nothing: its parent does.
os.register_at_fork(after_in_child=end)
