"""A TCP proxy between a hive and its broker, which can do what networks do: fall silent without
closing, be down for a while, lead elsewhere.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class Link:
    """One connection through the proxy, of a client with a server."""

    def __init__(self, client: socket.socket, server: socket.socket, up: threading.Event) -> None:
        self.client = client
        self.server = server
        self.up = up
        self.asks = True
        self.answers = True
        for source, forward in ((client, self._ask), (server, self._answer)):
            threading.Thread(target=self._pump, args=(source, forward), daemon=True).start()

    def _ask(self, data: bytes) -> None:
        if self.asks:
            self.server.sendall(data)

    def _answer(self, data: bytes) -> None:
        if self.answers:
            self.client.sendall(data)

    def _pump(self, source: socket.socket, forward: object) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.up.wait()  # late, as TCP brings it once a link is up again
                forward(data)  # type: ignore[operator]
        # Who is cut off by silence does not learn that the other side is gone.
        if source is self.client or self.answers:
            self.close()

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Listens on a free loopback port and forwards to the server's. Close it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._links: list[Link] = []
        self._up = threading.Event()
        self._up.set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._links.append(Link(client, server, self._up))

    def silence(self, *, asks: bool = False) -> None:
        """From now on no connection that there is answers, and none is closed; new ones work. asks:
        requests still reach the server.
        """
        with self._lock:
            for link in self._links:
                link.asks, link.answers = asks, False

    def down(self) -> None:
        """Nothing comes through any more, on no connection, and none is closed."""
        self._up.clear()

    def up(self) -> None:
        """All comes through again, also what was sent meanwhile."""
        self._up.set()

    def switch(self, port: int) -> None:
        """Cut all connections; new ones lead to another server."""
        self.target = port
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close()

    def close(self) -> None:
        # An accept under way goes on in spite of a close; a shutdown ends it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._up.set()
        self._cut()
