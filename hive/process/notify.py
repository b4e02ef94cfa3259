"""Tells systemd how a service is: ready, what it waits for, that its loop turns.

The protocol is a datagram of NAME=VALUE lines to the socket that NOTIFY_SOCKET names: sd_notify(3).
The packages for it are unmaintained, or need systemd's headers to be installed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Speaks to the service manager that started this process; says nothing where none asked.

    Its variables are taken out of the environment: what this process starts speaks for itself only.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watched = bool(watchdog) and watched
        self._status = ""

    def ready(self) -> bool:
        """What the manager has waited for is done. Returns: as `_send`."""
        return self._send("READY=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows; told when it changes."""
        if text != self._status and self._send(f"STATUS={' '.join(text.split())}"):
            self._status = text

    def alive(self) -> None:
        """The loop has turned; to be told at each turn."""
        if self._watched:
            self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """It ends. Returns: as `_send`."""
        return self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Starting, or stopping, takes at least so long from now on, whatever the unit says."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, line: str) -> bool:
        """Returns: False where the manager has not got it, and has to be told again."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.setblocking(False)  # a manager that does not read must not hold the loop up
                way.sendto(line.encode(), self._address)
        except OSError:
            return False
        return True
