"""The NATS side of the deny feed: carries out what the machine asks for, and tells what comes.

nats-py's KV watcher cannot start at a sequence, and its ordered consumer loses what its queue has no room for. So
this makes its own consumers on the bucket's stream and hands every entry on at once, in order, with the server's
numbers; the machine checks them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from aigw_anyio.nats.connection import LinkLost, LinkTimeout, NatsLink, NatsSupervisor, reason_of
from aigw_anyio.nats.hosting import Call, Host
from aigw_anyio.nats.jetstream import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError, request
from aigw_core.denystates import AskConsumer, AskStream, CloseConsumer, OpenConsumer, Reconnect
from aigw_core.denyview import Entry, StreamState, classify

HEARTBEAT_SECS: Final = 1.0
"""Between two heartbeats of an idle consumer; the machine counts it lost after three."""
INACTIVE_SECS: Final = 10.0
"""After which the server deletes a consumer that nobody listens to: long enough for a pause, and no more."""
PENDING_MESSAGES_MAX: Final = 65_536
"""Of one subscription inside nats-py; see the next."""
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one subscription inside nats-py. What is beyond it is dropped, and told: the machine reads all again. The
server's flow control stays far below."""
ASIDE_BITS: Final = 8_000_000
"""A second that a reading aside may take: some eight thousand entries, so that what is watched comes through."""
OPEN_SECS: Final = 60.0
"""For the answer to a new consumer, which may stand behind what it delivers; the machine knows when to give up."""
TASKS_MAX: Final = 64
"""Requests under way at a time; the machine has a few at most."""
FOREIGN: Final = "\x00"
"""Before a subject outside the bucket, which cannot be an entry then."""

Command = AskStream | OpenConsumer | AskConsumer | CloseConsumer | Reconnect

_RANDOM: Final = re.compile(r"(?:(?<=_inbox\.)|(?<=aigw-deny-))[\w.-]+", re.IGNORECASE)
"""What differs from one attempt to the next in the subjects that a server names."""
_log = logging.getLogger("aigw.deny")


class FeedInputs(Protocol):
    """What the machine's side offers; every call runs in the machine's thread."""

    def connected(self) -> None: ...
    def disconnected(self, reason: str) -> None: ...
    def failed(self, reason: str) -> None: ...
    def doubt(self, reason: str) -> None: ...
    def stream_state(self, ticket: int, stream: StreamState | None) -> None: ...
    def consumer_opened(self, epoch: int, pending: int | None) -> None: ...
    def consumer_state(self, epoch: int, consumer_seq: int | None, pending: int) -> None: ...
    def delivered(self, batch: list[Delivery]) -> None: ...


@dataclass(slots=True)
class Delivery:
    """Something that came from a consumer: an entry, a heartbeat, or a request to go on."""

    epoch: int
    entry: Entry | None = None
    heartbeat: int | None = None
    """The number of entries that the consumer has delivered."""
    go_on: str | None = None
    """The server waits for an answer to this subject, to be sent when all before it has been taken in."""


@dataclass(slots=True)
class _Consumer:
    epoch: int
    name: str
    subscription: Subscription | None = None
    is_closed: bool = False


@dataclass(slots=True)
class _Connection:
    """What belongs to one connection and dies with it."""

    link: NatsLink
    consumers: dict[int, _Consumer] = field(default_factory=dict)
    batch: list[Delivery] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class DenyLink:
    """Lives in the loop of its host; ``execute`` and ``go_on`` are called there by ``host.submit``."""

    def __init__(
        self,
        supervisor: NatsSupervisor,
        bucket: str,
        inputs: FeedInputs,
        host: Host,
        *,
        answer_secs: float,
        heartbeat_secs: float = HEARTBEAT_SECS,
    ) -> None:
        """``answer_secs``: for one request, as the machine waits."""
        self._supervisor = supervisor
        self._bucket = bucket
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._inputs = inputs
        self._host = host
        self._answer_secs = answer_secs
        self._heartbeat_secs = heartbeat_secs
        self._connection: _Connection | None = None
        self._is_absent = False
        """The bucket was not there when last looked for, and the log says so."""

    async def main(self) -> None:
        """Runs until cancelled."""
        await self._supervisor.run(self._session)

    async def _session(self, link: NatsLink) -> None:
        connection = self._connection = _Connection(link)
        link.on_error = lambda error: self._on_error(connection, error)
        self._host.post(self._inputs.connected)
        try:
            await link.lost()
        finally:
            self._connection = None
            for task in connection.tasks:
                task.cancel()
            connection.batch.clear()
            reason = link.reason
            self._host.post(lambda: self._inputs.disconnected(reason))

    def _on_error(self, connection: _Connection, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            self._deliver(connection)
            self._host.post(lambda: self._inputs.doubt("the client dropped entries"))
        elif isinstance(error, errors.Error) and "permissions violation" in str(error).lower():
            reason = _RANDOM.sub("*", reason_of(error))
            self._host.post(lambda: self._inputs.failed(reason))
        elif not isinstance(error, errors.Error | OSError):
            # Raised inside nats-py while it handled a message: that message may be lost.
            self._host.post(lambda: self._inputs.doubt("the client failed on an entry"))

    # From the machine

    def settled(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.link.settled()

    def go_on(self, subject: str) -> None:
        """Everything before the server's request has been taken in."""
        connection = self._connection
        if connection is not None:
            self._start(connection, self._publish(connection.link, subject))

    async def _publish(self, link: NatsLink, subject: str) -> None:
        await link.call(link.client.publish(subject), self._answer_secs)

    def execute(self, command: Command) -> None:
        connection = self._connection
        if connection is None:
            return
        if isinstance(command, Reconnect):
            connection.link.fail(command.reason)
        elif isinstance(command, AskStream):
            self._start(connection, self._ask_stream(connection, command.ticket))
        elif isinstance(command, OpenConsumer):
            self._start(connection, self._open(connection, command))
        elif isinstance(command, AskConsumer):
            self._start(connection, self._ask_consumer(connection, command.epoch))
        else:
            self._start(connection, self._close(connection, command.epoch))

    def _start(self, connection: _Connection, work: Coroutine[Any, Any, object]) -> None:
        if len(connection.tasks) >= TASKS_MAX:
            work.close()
            connection.link.fail("too many requests wait for the server")
            return
        task = asyncio.get_running_loop().create_task(self._guarded(connection, work))
        connection.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            connection.tasks.discard(task)
            # A task that was cancelled before its first step has not begun it.
            work.close()

        task.add_done_callback(done)

    async def _guarded(self, connection: _Connection, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except LinkLost:
            return
        except (TimeoutError, LinkTimeout, errors.TimeoutError):
            self._post(connection, lambda: self._inputs.failed("no answer from JetStream"))
        except ApiError as error:
            reason = str(error)
            self._post(connection, lambda: self._inputs.failed(reason))
        except errors.Error as error:
            reason = reason_of(error)
            self._post(connection, lambda: self._inputs.failed(reason))
        except Exception:  # noqa: BLE001  # our own bug: logged, and another connection is made
            _log.exception("the deny feed has failed")
            self._post(connection, lambda: self._inputs.failed("an error of the gateway"))

    def _post(self, connection: _Connection, call: Call) -> None:
        """In order behind what was delivered; nothing of a connection that is gone."""
        if connection is self._connection:
            self._deliver(connection)
            self._host.post(call)

    # The server

    async def _api(self, connection: _Connection, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await request(connection.link, subject, body, self._answer_secs)

    async def _ask_stream(self, connection: _Connection, ticket: int) -> None:
        try:
            answer = await self._api(connection, f"STREAM.INFO.{self._stream}")
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            state = None
        else:
            state = _stream_state(answer)
        if state is None and not self._is_absent:
            # A gateway that has never seen the bucket stays in one state, so that no change of it would tell.
            _log.warning(
                "there is no such bucket: `aigw deny put --create` makes it", extra={"fields": {"bucket": self._bucket}}
            )
        self._is_absent = state is None
        self._post(connection, lambda: self._inputs.stream_state(ticket, state))

    async def _open(self, connection: _Connection, command: OpenConsumer) -> None:
        epoch = command.epoch
        consumer = _Consumer(epoch, f"aigw-deny-{secrets.token_hex(8)}")
        connection.consumers[epoch] = consumer
        client = connection.link.client
        inbox = client.new_inbox()

        async def on_message(message: Msg) -> None:
            self._on_message(connection, consumer, message)

        consumer.subscription = await connection.link.call(
            client.subscribe(
                inbox,
                cb=on_message,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            ),
            self._answer_secs,
        )
        config = {
            "name": consumer.name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject" if command.start is None else "by_start_sequence",
            # All subjects of the stream, so that their number can be compared with the stream's own.
            "filter_subject": ">",
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(self._heartbeat_secs * 1e9),
            "inactive_threshold": int(INACTIVE_SECS * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if command.start is not None:
            config["opt_start_seq"] = command.start
        if command.is_aside:
            config["rate_limit_bps"] = ASIDE_BITS
        body = {"stream_name": self._stream, "config": config}
        try:
            subject = f"CONSUMER.CREATE.{self._stream}.{consumer.name}"
            answer = await request(connection.link, subject, body, OPEN_SECS)
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            pending = None
        else:
            pending = int(answer["num_pending"])
        if consumer.is_closed:
            await self._delete(connection, consumer)
            return
        self._post(connection, lambda: self._inputs.consumer_opened(epoch, pending))

    async def _ask_consumer(self, connection: _Connection, epoch: int) -> None:
        consumer = connection.consumers.get(epoch)
        if consumer is None:
            return
        seq: int | None = None
        pending = 0
        try:
            answer = await self._api(connection, f"CONSUMER.INFO.{self._stream}.{consumer.name}")
        except ApiError as error:
            if error.code not in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
                raise
        else:
            seq, pending = int(answer["delivered"]["consumer_seq"]), int(answer["num_pending"])
        self._post(connection, lambda: self._inputs.consumer_state(epoch, seq, pending))

    async def _close(self, connection: _Connection, epoch: int) -> None:
        consumer = connection.consumers.pop(epoch, None)
        if consumer is None or consumer.is_closed:
            return
        consumer.is_closed = True
        subscription = consumer.subscription
        if subscription is not None:
            await connection.link.call(subscription.unsubscribe(), self._answer_secs)
            await self._delete(connection, consumer)

    async def _delete(self, connection: _Connection, consumer: _Consumer) -> None:
        try:
            await self._api(connection, f"CONSUMER.DELETE.{self._stream}.{consumer.name}")
        except (ApiError, LinkTimeout, errors.Error):
            # Gone already, or it ends by itself after INACTIVE_SECS.
            return

    # Deliveries

    def _on_message(self, connection: _Connection, consumer: _Consumer, message: Msg) -> None:
        if consumer.is_closed or connection is not self._connection:
            return
        headers = message.headers
        if headers and headers.get("Status") == "100" and not message.data:
            delivery = self._control(consumer, message, headers)
        else:
            entry = self._entry(message)
            delivery = Delivery(consumer.epoch, entry) if entry is not None else None
            if entry is None:
                self._post(connection, lambda: self._inputs.doubt("an entry is not understood"))
        if delivery is not None:
            if not connection.batch:
                # Once a turn: an entry costs less in company, and the next turn is at once.
                asyncio.get_running_loop().call_soon(self._deliver, connection)
            connection.batch.append(delivery)

    def _deliver(self, connection: _Connection) -> None:
        batch, connection.batch = connection.batch, []
        if batch:
            self._host.post(lambda: self._inputs.delivered(batch))

    def _control(self, consumer: _Consumer, message: Msg, headers: dict[str, str]) -> Delivery | None:
        if message.reply:
            return Delivery(consumer.epoch, go_on=message.reply)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            return Delivery(consumer.epoch, go_on=stalled)
        last = headers.get("Nats-Last-Consumer", "")
        return Delivery(consumer.epoch, heartbeat=int(last)) if last.isascii() and last.isdigit() else None

    def _entry(self, message: Msg) -> Entry | None:
        numbers = delivery_numbers(message.reply)
        if numbers is None:
            return None
        revision, consumer_seq, time_ns, pending = numbers
        subject = message.subject
        is_ours = subject.startswith(self._prefix)
        key = subject[len(self._prefix) :] if is_ours else FOREIGN + subject
        return Entry(key, classify(message.headers), message.data, revision, consumer_seq, pending, time_ns)


def delivery_numbers(reply: str) -> tuple[int, int, int, int] | None:
    """Stream sequence, consumer sequence, time in nanoseconds and pending out of the subject for acknowledgements.

    ``$JS.ACK.stream.consumer.delivered.seq.consumer_seq.time.pending``, or, from servers that are told so,
    ``$JS.ACK.domain.account.`` before the same and more behind it. None for anything else.
    """
    tokens = reply.split(".")
    if len(tokens) < 9 or tokens[0] != "$JS" or tokens[1] != "ACK":
        return None
    first = 5 if len(tokens) == 9 else 7
    numbers = tokens[first : first + 4]
    if len(numbers) != 4 or not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    seq, consumer_seq, time_ns, pending = (int(number) for number in numbers)
    return seq, consumer_seq, time_ns, pending


def _stream_state(answer: dict[str, Any]) -> StreamState:
    """Raises ApiError for what is no description of a stream."""
    try:
        state = answer["state"]
        return StreamState(
            str(answer["created"]),
            int(state["last_seq"]),
            int(state.get("num_subjects", 0)),
            int(state["messages"]),
        )
    except (KeyError, TypeError, ValueError):
        raise ApiError(0, "the stream's description is not understood") from None
