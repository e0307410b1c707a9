"""A provider that lists its models to whoever holds its key, over real TLS or plainly; its clock may be wrong."""

from __future__ import annotations

import ssl
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import trustme

KEY: Final = "pool-key-TAINTdoctor1a2b3c"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    ahead = 0.0
    status = 200
    tls: ssl.SSLContext | None = None

    def get_request(self) -> Any:
        sock, address = super().get_request()
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Handshakes that fail are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        owner: Models = self.server.owner  # type: ignore[attr-defined]  # set below
        owner.requests.append((self.path, dict(self.headers)))
        keys = (self.headers.get("Authorization", "").removeprefix("Bearer "), self.headers.get("x-api-key", ""))
        status = self.server.status if KEY in keys or self.server.status != 200 else 401
        body = b'{"data": [], "echo": "' + KEY.encode() + b'"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.server.ahead, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Models:
    """Listens until closed."""

    def __init__(
        self, authority: trustme.CA | None = None, *names: str, status: int = 200, ahead: float = 0.0, **options: Any
    ) -> None:
        """``authority`` signs a certificate for ``names``; None: no TLS. ``ahead``: of our clock, in seconds.

        ``options``: of the certificate.
        """
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self  # type: ignore[attr-defined]  # of the handler
        self._server.status, self._server.ahead = status, ahead
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names, **options).configure_cert(context)
            self._server.tls = context
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'http' if self._server.tls is None else 'https'}://localhost:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
