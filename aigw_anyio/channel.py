"""One socket of a driver: what arrives is handed on at once, what is sent waits in one ordered, bounded queue."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup

from aigw_anyio import sockets
from aigw_anyio.readsize import READ_MAX, READ_MIN, next_read_size
from aigw_anyio.tlspipe import TlsPipe

QUEUE_HIGH: Final = 65_536
"""Bytes queued at which a socket counts as blocked; it is writable again when the queue is empty."""
CLOSE_SECS: Final = 2.0
"""For what is queued, the last words of TLS as a rule, to be sent before an orderly close gives up."""

BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""How streams say that their peer, or they themselves, are gone."""


@runtime_checkable
class SendsNow(Protocol):
    """A stream that can send without waiting: :class:`aigw_anyio.socketstream.SocketStream`."""

    def send_nowait(self, data: bytes | memoryview) -> int: ...


class Channel:
    """A byte stream with callbacks, in plain text or with TLS over it.

    All methods but :meth:`run` return at once and may be called from inside a callback. Nothing is called
    after ``on_gone``, nor after ``close`` or ``abort``.
    """

    def __init__(self, stream: ByteStream, tls: TlsPipe | None = None) -> None:
        self._stream = stream
        self._now = stream if isinstance(stream, SendsNow) else None
        self._tls = tls
        self._unread: sockets.Unread | None = None
        self.on_data: Callable[[bytes], None] = _ignore
        """Gets the plaintext as it arrives; ``b""`` is EOF, after which nothing more is read."""
        self.on_gone: Callable[[bool], None] = _ignore
        """The peer is gone; True: not in an orderly way."""
        self.on_edge: Callable[[bool], None] = _ignore
        """The queue passed its mark (True), or is empty again (False)."""
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._high = QUEUE_HIGH
        self._blocked = False
        self._writing = False
        self._ending = False
        self._closed = False
        self._paused = False
        self._read_size = READ_MAX
        self._resumed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._tasks: TaskGroup | None = None
        self._ready = anyio.Event()
        self._failure: Exception | None = None

    # Life

    async def run(self) -> None:
        """Carries bytes until the peer is gone or the channel is closed; then the stream is closed too."""
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    if self._tls is None:
                        self._ready.set()
                    else:
                        self._greet(self._tls)
                    await self._read()
        finally:
            self._closed = True
            if self._failure is None:
                self._failure = ConnectionResetError("closed during the handshake")
            self._ready.set()
            self._queue.clear()
            # Cancels itself: it closes the stream and does not wait.
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)
            # Whoever listens holds this channel, and a task its frames: in cycles they would wait for the collector.
            self.on_data = self.on_gone = self.on_edge = _ignore
            self._tasks = None

    async def established(self) -> None:
        """Returns when the TLS handshake is through. Raises ssl.SSLError or OSError."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def peer_address(self) -> str | None:
        """The IP address at the other end; None where the stream knows none."""
        try:
            name = self._stream.extra(SocketAttribute.remote_address, None)
        except OSError:
            # Gone already.
            return None
        return str(name[0]) if isinstance(name, tuple) else None

    @property
    def is_open(self) -> bool:
        return not self._closed

    @property
    def has_input(self) -> bool:
        """Of an open channel: its socket has something to read, its end included, that was not read yet."""
        if self._unread is None:
            self._unread = sockets.Unread(self._stream.extra(SocketAttribute.raw_socket, None))
        return self._unread.is_there()

    @property
    def is_empty(self) -> bool:
        """Everything was handed to the kernel."""
        return not self._queued

    def close(self) -> None:
        """In an orderly way: what is queued is still sent, for CLOSE_SECS at most."""
        if self._closed:
            return
        if self._tls is not None and self._tls.established and not self._ending:
            self._put(self._tls.close_notify())
        self._closed = True
        if self._queued and not self._scope.cancel_called:
            self._scope.deadline = anyio.current_time() + CLOSE_SECS
        else:
            self._scope.cancel()

    def abort(self) -> None:
        """At once, with RST; what is queued is dropped."""
        self._closed = True
        sockets.reset_when_closed(self._stream.extra(SocketAttribute.raw_socket, None))
        self._scope.cancel()

    # Writing

    def send(self, data: bytes) -> None:
        if not self._closed and not self._ending:
            self._put(data if self._tls is None else self._tls.send(data))

    def end(self) -> None:
        """Half-closes once everything is sent (TLS: after close_notify); until then the socket counts as blocked."""
        if self._closed or self._ending:
            return
        if self._tls is not None and self._tls.established:
            self._put(self._tls.close_notify())
        self._ending = True
        self._high = 0
        self._check_mark()
        self._start_writing()

    def _put(self, data: bytes) -> None:
        if not data:
            return
        rest = data
        if self._now is not None and not self._writing:
            try:
                sent = self._now.send_nowait(data)
            except BROKEN:
                # Told by the writing task: nothing is called back from inside a send.
                sent = 0
            if sent == len(data):
                return
            rest = data[sent:]
        self._queue.append(rest)
        self._queued += len(rest)
        self._check_mark()
        self._start_writing()

    def _check_mark(self) -> None:
        if not self._blocked and self._queued > self._high:
            self._blocked = True
            self.on_edge(True)

    def _start_writing(self) -> None:
        if not self._writing and self._tasks is not None:
            self._writing = True
            self._tasks.start_soon(self._write)

    async def _write(self) -> None:
        try:
            while self._queue:
                data = self._queue.popleft()
                await self._stream.send(data)
                self._queued -= len(data)
            self._writing = False
            if self._ending and hasattr(self._stream, "send_eof"):
                await self._stream.send_eof()
        except BROKEN:
            self._lose(error=True)
            return
        if self._closed:
            self._scope.cancel()
        elif self._blocked and not self._queued:
            self._blocked = False
            self.on_edge(False)

    # Reading

    def pause(self) -> None:
        """Reads no more; what is being read is still handed on."""
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._resumed.set()

    async def _read(self) -> None:
        while True:
            while self._paused:
                self._resumed = anyio.Event()
                await self._resumed.wait()
            try:
                data = await self._stream.receive(self._read_size)
            except anyio.EndOfStream:
                self._end_of_input()
                break
            except BROKEN:
                self._lose(error=True)
                break
            if self._closed:
                # Only the last words are still being sent.
                continue
            began = anyio.current_time() if len(data) >= READ_MIN else None
            if self._tls is None:
                self.on_data(data)
            elif not self._decrypt(self._tls, data):
                break
            if began is not None:
                self._read_size = next_read_size(self._read_size, len(data), anyio.current_time() - began)
        # The channel lives on to send; its owner closes it.
        await anyio.sleep_forever()

    def _end_of_input(self) -> None:
        if not self._ready.is_set():
            self._settle(ConnectionResetError("closed during the handshake"))
        elif not self._closed:
            self.on_data(b"")

    def _lose(self, *, error: bool) -> None:
        was_closed, self._closed = self._closed, True
        self._scope.cancel()
        if not was_closed:
            self.on_gone(error)

    # TLS

    def _greet(self, tls: TlsPipe) -> None:
        try:
            tls.handshake()
        except ssl.SSLError as error:
            self._settle(error)
            return
        self._put(tls.outgoing())

    def _settle(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ready.set()
        if failure is None or self._closed:
            return
        if self._queued:
            self._closed = True
            self._scope.deadline = anyio.current_time() + CLOSE_SECS
        else:
            self.abort()
        self.on_gone(True)

    def _decrypt(self, tls: TlsPipe, data: bytes) -> bool:
        """False when nothing more can be read."""
        was_established = tls.established
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            # The alert is still sent, so that the peer learns why.
            self._put(tls.outgoing())
            self._settle(error)
            return False
        self._put(tls.outgoing())
        if tls.established and not was_established:
            self._settle(None)
        if plain and not self._closed:
            self.on_data(plain)
        if tls.closed and not self._closed:
            self.on_data(b"")
        return not tls.closed


def _ignore(_: object) -> None:
    pass
