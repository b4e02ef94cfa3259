"""What jobs bring to recovery: messages whose processes died give back what they had leased."""

from __future__ import annotations

from collections.abc import Iterable

from hive.broker.ledger.sweep import Rows
from hive.broker.link.client import BrokerClient
from hive.foreman.watch.rooms import Recovery
from hive.jobs.state import steps
from hive.logs import get_logger

log = get_logger(__name__)


def return_leases(client: BrokerClient, publish_ids: Iterable[str]) -> int:
    """Give back what pullers had leased that are dead, or of whom nothing is heard, and what tasks
    had that worked on a job while they waited for it.

    It is done at once, so that others take it before the redelivered pullers do.

    publish_ids: of messages that went home; those that had leased nothing are passed over.
    Returns: the number of leases given back. Raises: redis errors.
    """
    returned = 0
    for publish_id, job_id in _jobs_of(client, publish_ids):
        leases = int(
            steps.run(
                client, steps.RECLAIM, job_id, publish_id, client.settings.hive_max_retries + 1
            )
        )
        log.info("leases_returned", job_id=job_id, owner=publish_id, leases=leases)
        returned += leases
    return returned


def _jobs_of(client: BrokerClient, publish_ids: Iterable[str]) -> list[tuple[str, str]]:
    ids = list(publish_ids)
    if not ids:
        return []
    jobs = client.redis.hmget(client.key("pullers"), ids)
    return [
        (publish_id, job_id)
        for publish_id, row in zip(ids, jobs, strict=True)
        for job_id in steps.text(row).split()
    ]


RECOVERY = Recovery(on_restored=return_leases, rows=(Rows("pullers"),))
"""For `hive.install`."""
