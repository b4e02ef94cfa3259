"""The format of what is stored in the broker. A process that cannot serve it says so and stops,
before it reads a row wrongly or writes one that the others cannot read.
"""

from __future__ import annotations

from hive.broker.link.client import BrokerClient, broker_errors
from hive.broker.link.unreadable import ask
from hive.errors import BrokerUnreachableError, StoredFormatError

FORMAT = b"1"
"""What this release writes and reads; lua/lib.lua of the channel has the same. A release whose rows
the release before cannot read raises it.
"""
_SHOWN = 50


def require_format(client: BrokerClient) -> None:
    """Look whether this release can serve what is stored: one round trip, once for each client that
    it has succeeded for.

    Raises: StoredFormatError, redis errors.
    """
    if not client.format_served:
        check_format(stored_format(client))
        client.format_served = True


def why_not_asked(client: BrokerClient) -> str | None:
    """Look whether this release can serve what is stored, for a program that starts, and waits for
    a broker that is away.

    Returns: why the broker could not be asked; None where it was.
    Raises: StoredFormatError, BrokerAuthError: waiting would mend neither.
    """
    try:
        with broker_errors(client.address):
            require_format(client)
    except BrokerUnreachableError as error:
        return error.message
    return None


def stored_format(client: BrokerClient) -> bytes | None:
    """What the broker says; None where nobody has noted it yet. Raises: redis errors."""
    found: bytes | None = ask(client, client.redis.get, client.key("format"))
    return found


def check_format(stored: bytes | None) -> None:
    """Raises: StoredFormatError where this release does not serve that format. None is the first,
    in which releases wrote before they noted it.
    """
    if stored is None or stored == FORMAT:
        return
    text = stored[:_SHOWN].decode(errors="backslashreplace")
    named = text if text.isalnum() else f"'{text}'"
    raise StoredFormatError(
        f"The hive's data has the format {named}, and this release of Hive serves "
        f"{FORMAT.decode()} only; start the release that the hive's other processes run."
    )
