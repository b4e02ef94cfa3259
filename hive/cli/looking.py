"""A command's way to the broker where it needs no application, which spares it Celery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hive.broker.link.client import BrokerClient, broker_errors, ready_client
from hive.broker.link.format import require_format
from hive.settings import Settings


@contextmanager
def looking() -> Iterator[BrokerClient]:
    """A client of the broker of the environment's settings; its connections are closed at the end.

    Errors of the broker inside the context are Hive's, too.

    Raises: SettingsError, StoredFormatError, BrokerUnreachableError, BrokerAuthError.
    """
    client = ready_client(Settings.load())
    with broker_errors(client.address):
        try:
            require_format(client)
            yield client
        finally:
            client.close()
