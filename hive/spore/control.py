"""Remote control, with revocations that are remembered by the broker and not only by the workers
that were online.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.app.control import Control as CeleryControl
from celery.worker.state import REVOKE_EXPIRES

from hive.broker.channel import steps
from hive.broker.link.client import client_of

NAME = "hive.spore.control:Control"


class Control(CeleryControl):
    """Named in the application's `control_cls`."""

    def revoke(self, task_id: str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """Revoke as Celery does, remembered by the broker for nodes that are not online yet."""
        client = client_of(self.app)
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        client.run(steps.REVOKE, (), (client.prefix, int(REVOKE_EXPIRES), *ids))
        return super().revoke(task_id, *args, **kwargs)
