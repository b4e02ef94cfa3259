"""Remote control, with revocations that are remembered by the broker and not only by the workers
that were online.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery.app.control import Control as CeleryControl
from celery.worker.state import REVOKE_EXPIRES

from hive.broker.channel import steps
from hive.broker.link.client import client_of
from hive.broker.link.names import asked_id

NAME = "hive.spore.control:Control"


class Control(CeleryControl):
    """Named in the application's `control_cls`."""

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        """Revoke as Celery does, remembered by the broker for nodes that are not online yet.

        task_id: one, or several. Raises: InvalidInputError for what is neither a text nor a UUID.
        """
        client = client_of(self.app)
        one = isinstance(task_id, str | UUID)
        ids = [asked_id(name) for name in ([task_id] if one else task_id)]
        client.run(steps.REVOKE, (), (client.prefix, int(REVOKE_EXPIRES), *ids))
        return super().revoke(ids[0] if one else ids, *args, **kwargs)
