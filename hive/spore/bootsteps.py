"""What makes a Celery worker a spore: its incarnation, its heartbeat, its goodbye.

Two steps, since Celery builds a worker from two blueprints: `SporeStep` lives as long as the
process, `SporeConsumerStep` is started anew with each connection to the broker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

import psutil
import redis
from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool as ProcessPool

from hive.broker.channel import incarnation as incarnations
from hive.broker.channel.encrypted import refuse_plain_broker
from hive.broker.link.client import client_of
from hive.broker.link.format import check_format, require_format, stored_format
from hive.broker.link.names import checked_name
from hive.broker.link.silence import ATTENTION
from hive.broker.nodes.process import Process
from hive.errors import HiveError, InvalidInputError, StoredFormatError
from hive.foreman.watch.restore import Restorer
from hive.foreman.watch.rooms import hooks_of
from hive.foreman.watch.watchdog import STAND_IN_TICK, Watchdog
from hive.logs import get_logger
from hive.process.lifeline import supervisor_fd, watch_supervisor
from hive.process.liveness import signs_fd
from hive.spore import garbage
from hive.spore.grace import Grace
from hive.spore.heartbeat import Heartbeat
from hive.spore.machine.deaths import Deaths
from hive.spore.proof_of_life import ProofOfLife
from hive.spore.request import acknowledge_late
from hive.spore.run.guard import guard
from hive.spore.strategy import Turns
from hive.spore.wakeup import Wakeup

log = get_logger(__name__)

# Seconds between two looks for dead pool processes. Celery looks when their pipes close, which is
# before they can be waited for, and then only every 5 s.
POOL_CHECK_SECONDS = 0.5


class SporeStep(bootsteps.StartStopStep):
    """Starts the incarnation and its heartbeat once the pool's processes are there.

    `stop` only ends the taking of work. What runs is still finished and acknowledged while the
    heartbeat goes on; the goodbye is said at the signal `worker_shutdown`.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        garbage.connect()
        guard(worker.app.tasks.values())
        worker.app.hive_deaths = Deaths()
        self.heartbeat: Heartbeat | None = None
        self._stopping = threading.Event()

    def start(self, worker: Any) -> None:
        app = worker.app
        try:
            refuse_plain_broker(client_of(app))
            _refuse_names(worker.hostname, app.amqp.queues.consume_from)
        except HiveError as error:
            log.error("worker_cannot_start", reason=error.message)
            raise SystemExit(error.exit_code) from None
        acknowledge_late(app.tasks.values())  # before Celery's consumer prepares for them
        client = client_of(app).with_timeout(ATTENTION)  # the event loop speaks through it, too
        process = Process.own(client.settings).model_dump_json()
        incarnation = incarnations.begin(client, worker.hostname, slots_of(worker), process)
        self.heartbeat = Heartbeat(app, incarnation, lambda: slots_of(worker))
        self.heartbeat.prepare()
        self.heartbeat.start()
        threading.Thread(
            target=self._watch, args=(app, worker.hostname), name="hive-stand-in", daemon=True
        ).start()
        Grace(
            client_of(app).settings.hive_drain_timeout,
            _take_no_more,
            lambda: self._give_back(worker),
            _end_at_once,
        ).start()
        signals.worker_shutdown.connect(self._leave, weak=False, dispatch_uid="hive.spore")
        signs = signs_fd()
        if signs is not None:
            ProofOfLife(signs, worker, incarnation).start()
        lifeline = supervisor_fd()
        if lifeline is not None:
            watch_supervisor(lifeline, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def _watch(self, app: Any, node_id: str) -> None:
        """Bring back what this node's earlier processes held, at once: only this machine can tell
        that they have ended. Then stand in for a nexus: without any, the spores themselves bring
        back what the dead held, a little later than it would.
        """
        try:
            require_format(client_of(app))
            Restorer(hooks_of(app)).restore_ended(client_of(app), node_id)
        except StoredFormatError:
            return  # SporeConsumerStep says so, and ends the worker
        except Exception as error:  # noqa: BLE001 - the watchdog does it a little later
            log.warning("earlier_processes_wait", node_id=node_id, error=str(error))
        while not self._stopping.is_set():
            try:
                Watchdog.stand_in(client_of(app), app).run(self._stopping)
            except Exception:
                log.exception("stand_in_broke")
                self._stopping.wait(STAND_IN_TICK)

    def stop(self, worker: Any) -> None:
        self._stopping.set()
        incarnation = incarnations.current()
        if incarnation is not None:
            incarnation.stop()

    def terminate(self, worker: Any) -> None:
        """Leave here: Celery's cold shutdown out of the event loop sends no `worker_shutdown`."""
        self.stop(worker)
        worker.pool.terminate()  # nothing may go on here once it is back in its queue
        self._leave()

    def _give_back(self, worker: Any) -> None:
        """End what runs, give it back without counting a death, and end the process."""
        if isinstance(worker.pool, ProcessPool):
            os.kill(os.getpid(), signal.SIGQUIT)  # Celery's cold shutdown
            return
        # Celery cannot end a thread, and would wait for it. A thread ends with its process.
        self._leave()
        os._exit(1)

    def _leave(self, **_: Any) -> None:
        incarnation = incarnations.current()
        heartbeat, self.heartbeat = self.heartbeat, None
        if heartbeat is None or incarnation is None:
            return
        heartbeat.end()
        try:
            heartbeat.goodbye()
            incarnation.leave()
        except redis.exceptions.RedisError as error:
            # The watchdog does the same once the heartbeats have been missed.
            log.warning("goodbye_failed", incarnation=incarnation.id, error=str(error))
        incarnation.client.close()


def _refuse_names(node_id: str, queues: Iterable[str]) -> None:
    """Raises: InvalidInputError for a node or a queue that rows in the broker could not name."""
    if "|" in checked_name("A node's name", node_id):
        raise InvalidInputError(f"A node's name has no | in it; it cannot be {node_id!r}.")
    for queue in queues:
        checked_name("A queue's name", queue)


def _end_at_once() -> None:
    """End the process and its pool, whatever they do.

    Celery's event loop may be waiting for a broker that is cut off, without an end. What is held
    here goes home once the broker has missed the heartbeats.
    """
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)


def _take_no_more() -> None:
    """Take no more work at once.

    The event loop looks for a stop only when it wakes, and would take what comes until then.
    """
    incarnation = incarnations.current()
    if incarnation is not None:
        incarnation.draining = True
        incarnation.nudge()


class SporeConsumerStep(bootsteps.StartStopStep):
    """Gives the event loop of each new connection a wake-up, and a look for dead pool processes.

    Before it takes anything: a release that cannot serve what the broker has stored ends here, also
    where that has changed while the connection was away.
    What waits in the broker for its turn here is called from then on.
    """

    requires = ("celery.worker.consumer.mingle:Mingle",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.wakeup: Wakeup | None = None
        consumer.turns = Turns(consumer)

    def start(self, consumer: Any) -> None:
        """Raises: SystemExit for a stored format that this release does not serve, redis errors."""
        incarnation = incarnations.current()
        # The event loop speaks here: a connection that is silent must not hold it up.
        client = incarnation.client if incarnation is not None else client_of(consumer.app)
        try:
            check_format(stored_format(client))
        except StoredFormatError as error:
            log.error("worker_cannot_start", reason=error.message)
            raise SystemExit(error.exit_code) from None
        consumer.turns.begin()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        hub.call_repeatedly(POOL_CHECK_SECONDS, consumer.pool.maintain_pool)
        incarnation = incarnations.current()
        if incarnation is None:
            return
        hub.call_repeatedly(1.0, incarnation.turned)
        if self.wakeup is None:
            self.wakeup = Wakeup(threading.get_ident())
        hub.add_reader(self.wakeup.reader, self.wakeup.clear)
        incarnation.nudge = self.wakeup

    def shutdown(self, _consumer: Any) -> None:
        incarnation = incarnations.current()
        if incarnation is not None:
            incarnation.nudge = lambda: None
        if self.wakeup is not None:
            self.wakeup.close()
            self.wakeup = None


def slots_of(worker: Any) -> int:
    """How many tasks the worker's pool runs at once.

    With --autoscale it is the most that the pool can grow to: it grows as it is given work.
    """
    most = (
        getattr(getattr(worker, "autoscaler", None), "max_concurrency", None)
        or worker.max_concurrency
    )
    return int(most or getattr(worker.pool, "num_processes", None) or worker.concurrency or 1)
