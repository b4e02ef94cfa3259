"""Waking the worker's event loop from another thread.

A task that ended in a thread pool must not wait for the loop's next timer.
"""

from __future__ import annotations

import contextlib
import os
import threading


class Wakeup:
    """A pipe that makes the loop's poll return.

    In the loop's own thread, which is awake, a call does nothing.
    """

    def __init__(self, loop_thread: int) -> None:
        self._loop_thread = loop_thread
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def __call__(self) -> None:
        if threading.get_ident() != self._loop_thread:
            # A full pipe wakes the loop anyway, and a closed one means that the loop is ending.
            with contextlib.suppress(OSError):
                os.write(self._writer, b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.reader, 4096):
                pass

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)
