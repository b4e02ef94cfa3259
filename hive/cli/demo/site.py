"""The demo's web site, on a free loopback port.

It serves each document after a stated delay, as a distant site would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import quote, unquote

from hive.cli.demo.documents import Document


class DocumentSite:
    """Serves `/<package>` for every document; use it as a context.

    documents: the pages. delay: seconds that each answer waits before its first byte.
    """

    def __init__(self, documents: Sequence[Document], delay: float) -> None:
        self.documents = list(documents)
        self.delay = delay
        self._server = _Server(
            ("127.0.0.1", 0),
            _handler({document.name: document.page for document in documents}, delay),
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="demo-site",
            daemon=True,
        )

    @property
    def urls(self) -> list[str]:
        """The documents' addresses, in the documents' order."""
        port = self._server.server_address[1]
        return [f"http://127.0.0.1:{port}/{quote(document.name)}" for document in self.documents]

    def __enter__(self) -> DocumentSite:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a killed spore drops its connections, which is what the demo is about."""


def _handler(pages: dict[str, bytes], delay: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = pages.get(unquote(self.path.lstrip("/")))
            time.sleep(delay)
            body = page if page is not None else b"no such document"
            self.send_response(200 if page is not None else 404)
            self.send_header(
                "Content-Type", "text/html; charset=utf-8" if page is not None else "text/plain"
            )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a line for each request would hide what the demo shows."""

    return Handler
