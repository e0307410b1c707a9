"""A NATS connection that is never given up: one client for one connection, built anew whenever in doubt.

nats-py's own reconnecting is switched off. It ends after 60 attempts, closes for good on any ``-ERR`` but two, can
be stuck half way when a callback raises, replays what was pending into another session, and knows no jitter. Here a
lost connection ends the session of whoever used it, and a new client with a new session follows after a back-off.

Use::

    supervisor = NatsSupervisor(options, name="aigw deny feed")
    await supervisor.run(session)          # until cancelled; never returns by itself

    async def session(link: NatsLink) -> None:
        reply = await link.call(link.client.request("$JS.API.INFO"), 5.0)
        link.settled()                     # what was wanted runs: the back-off may begin anew if it lasts
        await link.lost()                  # or any other work; it is cancelled when the connection is lost

Everything here runs in one asyncio event loop, in native tasks. Under a cancel scope of anyio run it by
:mod:`aigw_anyio.nats.hosting`, which keeps level cancellation away from nats-py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from nats import errors
from nats.aio.client import Client

from aigw_anyio.connecting import describe
from aigw_anyio.nats.options import NatsOptions
from aigw_core.backoff import FIRST_SECS, LONGEST_SECS, SETTLED_SECS, Backoff
from aigw_core.secrets import Secret

T = TypeVar("T")

REASON_CHARS_MAX: Final = 200
"""Of a reason in the log and in the status: a server's error text is its own, and may be long."""
REASONS_LOGGED_MAX: Final = 8
"""Different reasons logged in one outage: more than one can matter, but two that alternate must not fill the log."""

PING_SECS: Final = 3600
"""For nats-py to wait for the answer to a ping; its connection is given up long before."""
_CONNECTED: Final = "connected"

_log = logging.getLogger("aigw.nats")


class LinkLost(Exception):
    """The connection is gone, or is not trusted any more; the text says why."""


class LinkTimeout(Exception):
    """An answer did not come in time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Every time constant, in seconds; the defaults are what the docs state, tests run faster."""

    connect: float = 5.0
    """For one connection: TCP, TLS and login."""
    probe: float = 3.0
    """Between two pings of our own, and for the answer to one: a dead peer is found within twice this."""
    close: float = 2.0
    """For an old client to close."""
    backoff_first: float = FIRST_SECS
    backoff_longest: float = LONGEST_SECS
    settled: float = SETTLED_SECS


@dataclass(slots=True)
class LinkStatus:
    """For metrics and health."""

    connected: bool = False
    connects: int = 0
    """Connections made since the start."""
    failures: int = 0
    """Attempts that failed and connections that were lost since the start."""
    reason: str = ""
    """Why it is not connected, or was not last time; free of secrets."""


class NatsLink:
    """One connection, for one session."""

    def __init__(self, client: Client, backoff: Backoff, on_settled: Callable[[], None]) -> None:
        self.client = client
        self._backoff = backoff
        self._on_settled = on_settled
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_error: Callable[[Exception], None] | None = None
        """Called with what nats-py reports aside, such as SlowConsumerError and permission errors. Must not raise."""
        self.last_error: Exception | None = None
        """The newest of these."""
        self.ping: asyncio.Task[None] | None = None
        """The supervisor's own, until it is answered or the client is closed."""

    def settled(self) -> None:
        """What the session is for runs from now on."""
        self._backoff.started(time.monotonic())
        self._on_settled()

    def fail(self, reason: str) -> None:
        """Gives the connection up: the session is cancelled, the client closed, another one built."""
        if not self._lost.done():
            self._lost.set_result(reason)

    @property
    def is_lost(self) -> bool:
        return self._lost.done()

    @property
    def reason(self) -> str:
        """Why it is gone; empty while it is not."""
        return self._lost.result() if self._lost.done() else ""

    async def lost(self) -> str:
        """Waits until the connection is gone; the reason."""
        return await asyncio.shield(self._lost)

    async def call(self, call: Coroutine[Any, Any, T], secs: float) -> T:
        """Awaits a call of nats-py, in a task of its own, for so long at most.

        nats-py swallows cancellation in places, so its tasks are told to stop, and left behind if they do not.
        Raises LinkTimeout, LinkLost, or what the call raises.
        """
        task = asyncio.get_running_loop().create_task(call)
        try:
            either: set[asyncio.Future[Any]] = {task, self._lost}
            await asyncio.wait(either, timeout=secs, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled():
                return task.result()
            if self._lost.done():
                raise LinkLost(self._lost.result())
            raise LinkTimeout
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(_forget)
            elif not task.cancelled():
                task.exception()


Session = Callable[[NatsLink], Awaitable[None]]
"""Works on one connection. Cancelled when that is lost; what it raises, or its return, ends the connection."""


class NatsSupervisor:
    """Keeps one connection, whatever happens to the server, the network or the client library."""

    def __init__(
        self,
        options: NatsOptions,
        *,
        name: str,
        pace: Pace | None = None,
        on_change: Callable[[LinkStatus], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``name`` is shown by the server. ``on_change`` is called when the connection is made and when it is lost.

        Raises ValueError where the certificates cannot be loaded.
        """
        self._options = options
        self._name = name
        self._pace = pace or Pace()
        self._on_change = on_change
        self._chance = chance
        self._tls = options.tls_context()
        self._backoff = Backoff(
            first=self._pace.backoff_first, longest=self._pace.backoff_longest, settled=self._pace.settled
        )
        self._logged: set[str] = set()
        self.status = LinkStatus()

    async def run(self, session: Session) -> NoReturn:
        """Connects and runs ``session`` again and again, until cancelled."""
        while True:
            reason = await self._once(session)
            self._note_lost(reason)
            await asyncio.sleep(self._backoff.failed(time.monotonic(), self._chance()))

    async def _once(self, session: Session) -> str:
        """One connection from beginning to end; why it ended."""
        client = _Client(tls_required=self._options.tls_required)
        link = NatsLink(client, self._backoff, self._logged.clear)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await link.call(self._connect(client, link), self._pace.connect)
            client.require_tls()
            self._note_connected()
            loop = asyncio.get_running_loop()
            work = loop.create_task(_run(session, link), name="nats session")
            probe = loop.create_task(self._probe(link), name="nats probe")
            tasks = [work, probe]
            await asyncio.wait({work, probe, link._lost}, return_when=asyncio.FIRST_COMPLETED)
            if not link.is_lost:
                link.fail((probe if probe.done() else work).result())
            return link._lost.result()
        except LinkTimeout:
            return "no connection in time"
        except LinkLost as lost:
            return str(lost)
        except Exception as error:  # noqa: BLE001  # whatever the library raises, the answer is to try again
            # That no server is left is the sum of errors that were reported one by one.
            is_sum = isinstance(error, errors.NoServersError) and link.last_error is not None
            return reason_of(link.last_error if is_sum and link.last_error is not None else error)
        finally:
            link.fail("closed")
            for task in tasks:
                task.cancel()
            try:
                await _dispose(client, tasks, self._pace.close)
            finally:
                if link.ping is not None:
                    link.ping.add_done_callback(_forget)
                    link.ping.cancel()

    async def _connect(self, client: Client, link: NatsLink) -> None:
        options = self._options

        async def error_cb(error: Exception) -> None:
            # An exception here would kill the task of nats-py that calls it.
            link.last_error = error
            if link.on_error is not None:
                try:
                    link.on_error(error)
                except Exception:  # noqa: BLE001  # logged, and the connection is given up
                    _log.exception("a NATS error handler has failed")
                    link.fail("the error handler failed")

        async def closed_cb() -> None:
            last = client.last_error
            link.fail(reason_of(last) if last is not None else "the server closed the connection")

        async def lame_duck_cb() -> None:
            link.fail("the server is shutting down")

        await client.connect(
            list(options.servers),
            name=self._name,
            error_cb=error_cb,
            closed_cb=closed_cb,
            lame_duck_mode_cb=lame_duck_cb,
            allow_reconnect=False,
            # Each address is tried twice at most, then the error is ours to wait on.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=self._pace.connect,  # type: ignore[arg-type]  # a float does as well
            # The second line behind our own ping, which knows when an answer may be late.
            ping_interval=4 * self._pace.probe,  # type: ignore[arg-type]  # a float does as well
            max_outstanding_pings=3,
            tls=self._tls,
            user=_text(options.user),
            password=_text(options.password),
            token=_text(options.token),
            user_credentials=str(options.creds_file) if options.creds_file is not None else None,
        )

    async def _probe(self, link: NatsLink) -> str:
        """Returns why the connection is not trusted any more.

        nats-py's read loop ends on an unexpected exception and leaves the client connected but deaf; its ``flush``
        then reports success. So the loop itself is looked at too. A late answer to a ping that was given up is such
        an exception, so no ping is given up while its connection is.
        """
        stats = link.client.stats
        while True:
            await asyncio.sleep(self._pace.probe)
            reading = getattr(link.client, "_reading_task", None)
            if reading is not None and reading.done():
                return "the client stopped reading"
            received = stats["in_msgs"]
            if link.ping is None:
                link.ping = asyncio.get_running_loop().create_task(link.client.flush(PING_SECS))
            await asyncio.wait({link.ping}, timeout=self._pace.probe)
            if link.ping.done():
                link.ping.result()
                link.ping = None
            elif stats["in_msgs"] == received:
                return "no answer to a ping"
            # Behind a flood of messages the answer takes its time, and the flood shows that somebody is there.

    def _note_connected(self) -> None:
        status = self.status
        status.connected = True
        status.connects += 1
        # A connection that is made and lost again and again, before it was of any use, is told of once.
        if _CONNECTED not in self._logged:
            self._logged.add(_CONNECTED)
            _log.info("connected to NATS", extra={"fields": {"connection": self._name}})
        self._tell()

    def _note_lost(self, reason: str) -> None:
        status = self.status
        was_connected = status.connected
        status.connected = False
        status.failures += 1
        status.reason = reason
        if reason not in self._logged and len(self._logged) < REASONS_LOGGED_MAX:
            self._logged.add(reason)
            word = "lost the connection to NATS" if was_connected else "cannot connect to NATS"
            _log.warning("%s, trying again", word, extra={"fields": {"connection": self._name, "reason": reason}})
        if was_connected:
            self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self.status)


class NotSecure(errors.Error):
    """TLS was asked for and the server does not offer it."""

    def __str__(self) -> str:
        return "the server does not offer TLS"


class _Client(Client):
    """nats-py's client, which refuses to log in over a connection that should have been TLS and is not."""

    def __init__(self, *, tls_required: bool) -> None:
        super().__init__()
        self._tls_demanded = tls_required

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The first line of the server: the login is sent after it, in clear text where TLS is not required.
        if initial_connection and self._tls_demanded and not info.get("tls_required"):
            raise NotSecure
        if initial_connection:
            # Addresses that a server names are not adopted: the operator's list says whom to trust.
            info.pop("connect_urls", None)
        await super()._process_info(info, initial_connection)

    async def _process_op_err(self, e: Exception) -> None:
        # Closing would try to send what is left, fail at it, and tell nobody that the connection is gone.
        self._pending = []
        self._pending_data_size = 0
        await super()._process_op_err(e)

    def require_tls(self) -> None:
        """Raises NotSecure where TLS is demanded and the socket has none."""
        writer = getattr(self._transport, "_io_writer", None)
        if self._tls_demanded and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise NotSecure

    def drop(self) -> None:
        """Closes the sockets at once, whatever the client's own state."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.transport.abort()


async def _run(session: Session, link: NatsLink) -> str:
    try:
        await session(link)
    except LinkTimeout:
        return "no answer from the server in time"
    except LinkLost as lost:
        return str(lost)
    return "the session ended"


async def _dispose(client: _Client, tasks: list[asyncio.Task[Any]], secs: float) -> None:
    """Ends a client for good, in bounded time, even while this task is being cancelled."""
    closing = asyncio.get_running_loop().create_task(client.close())
    pending = {closing, *tasks}
    deadline = time.monotonic() + secs
    cancelled = False
    while pending and (left := deadline - time.monotonic()) > 0:
        try:
            _, pending = await asyncio.wait(pending, timeout=left)
            break
        except asyncio.CancelledError:
            # Remembered and raised below: the socket must not outlive us.
            cancelled = True
    client.drop()
    for task in pending:
        task.cancel()
    for task in (closing, *tasks):
        task.add_done_callback(_forget)
    if cancelled:
        raise asyncio.CancelledError


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def reason_of(error: BaseException) -> str:
    """One short line about an error, free of secrets."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the server's certificate is refused: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        text = f"TLS failed: {error.reason or 'not a TLS server'}"
    elif isinstance(error, (errors.TimeoutError, asyncio.TimeoutError)):
        text = "no answer in time"
    elif isinstance(error, errors.NoServersError):
        text = "no server can be reached"
    elif isinstance(error, errors.Error):
        text = _unquoted(str(error).removeprefix("nats: ").strip()) or type(error).__name__
    elif isinstance(error, OSError):
        # asyncio puts words of its own into ``strerror``, and has no number where it tried several addresses.
        text = describe(error) if error.errno else str(error) or type(error).__name__
    else:
        text = type(error).__name__
    return text[:REASON_CHARS_MAX]


def _unquoted(text: str) -> str:
    """Without the quotes around the whole of it; those inside belong to what is quoted."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _text(secret: Secret | None) -> str | None:
    return secret.reveal().decode() if secret is not None else None
