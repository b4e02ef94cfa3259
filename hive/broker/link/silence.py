"""When a connection to the broker on which nothing is heard counts as lost."""

from __future__ import annotations

import socket

SILENCE = 3.0
"""Seconds after which a connection that owes an answer counts as lost."""
ATTENTION = 1.5
"""The same for a worker's consuming connection, not counting the second for which the broker may
keep its answer back.
"""


def keepalive() -> dict[int, int]:
    """Socket options by which the system itself notices that a peer is gone.

    It takes about SILENCE seconds, also where nobody waits for an answer.
    """
    wanted = {
        "TCP_KEEPIDLE": 2,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": int(SILENCE * 1000),
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
