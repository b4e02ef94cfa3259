"""A web server on loopback whose pages misbehave in every way that a fetch must survive."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["PageHandler"], None]


class PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), PageHandler)
        self.host = host
        self.closing = threading.Event()
        self.pages: dict[str, Answer] = {}
        self.requests: list[tuple[str, str]] = []
        self.sent = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    def page(
        self,
        path: str,
        body: bytes,
        content_type: str | None = "text/html",
        status: int = 200,
        **headers: str,
    ) -> str:
        """Serve `body` at `path`; return its address."""

        def answer(handler: PageHandler) -> None:
            handler.send_response(status)
            if content_type is not None:
                handler.send_header("Content-Type", content_type)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return self.answer(path, answer)

    def redirect(self, path: str, target: str) -> str:
        return self.page(path, b"", status=302, Location=target)

    def gzipped(self, path: str, body: bytes) -> str:
        return self.page(path, gzip.compress(body), Content_Encoding="gzip")

    def answer(self, path: str, answer: Answer) -> str:
        self.pages[path] = answer
        return self.url(path)

    def silent(self, path: str) -> str:
        """Accepts the request and never answers."""
        return self.answer(path, lambda handler: handler.server_closing())

    def dripping(self, path: str, start: bytes, drop: bytes) -> str:
        """Sends `start`, then a drop every 50 ms for as long as anyone listens."""

        def answer(handler: PageHandler) -> None:
            handler.wfile.write(start)
            while not self.closing.wait(0.05):
                handler.wfile.write(drop)
                handler.wfile.flush()

        return self.answer(path, answer)

    def endless(self, path: str, megabytes: int) -> str:
        """A page of that size that does not say how large it is; `sent` counts what went out."""

        def answer(handler: PageHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", "text/html")
            handler.end_headers()
            for _ in range(megabytes * 16):
                handler.wfile.write(b"x" * 65536)
                self.sent += 65536

        return self.answer(path, answer)

    def raw(self, path: str, answer: bytes) -> str:
        return self.answer(path, lambda handler: handler.send_raw(answer))


class PageHandler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.requests.append((self.path, self.headers["Host"]))
        answer = self.server.pages.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        with suppress(OSError):
            answer(self)

    def server_closing(self) -> None:
        self.server.closing.wait(60)

    def send_raw(self, answer: bytes) -> None:
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output stays readable."""


@contextmanager
def page_server(host: str = "127.0.0.1") -> Iterator[PageServer]:
    server = PageServer(host)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
