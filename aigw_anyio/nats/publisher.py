"""Publishes the facts of one spool to a stream, each once, over one connection.

Rounds, as :mod:`aigw_core.outbox` describes them: read back what the stream holds behind the cursor, then publish
in the order of the spool, many in flight. An answer that is an error or does not come is a doubt: what is still in
flight is waited for, and a new round begins.

Message ids are no secret, and who may publish to the stream can take one beforehand. So an answer that calls a fact a
duplicate is believed only once the message that the stream has was read, and is that fact; else the fact is published
under another id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nats.aio.msg import Msg

from aigw_anyio.nats.connection import NatsLink
from aigw_anyio.nats.factstream import ID_HEADER, Stream, holds, read_back
from aigw_anyio.nats.jetstream import ApiError
from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.follow import Follower, Position
from aigw_core.outbox import Cursor, Outbox, content_key, message_id, parse_cursor, read_back_from
from aigw_core.spool import Kind, Record

CURSOR_NAME: Final = "published.json"
IN_FLIGHT_MAX: Final = 256
"""Facts without their acknowledgement: enough to fill a round trip of some ten milliseconds at full speed."""
ACK_SECS: Final = 5.0
"""For an acknowledgement; longer is a doubt."""
RETRY_SECS: Final = 1.0
"""Between rounds after a doubt, such as a full stream."""
CURSOR_SECS: Final = 1.0
"""Between two writes of the cursor; an older one costs a longer read-back and nothing else."""
IN_A_ROW_MAX: Final = 16
"""Facts published before others in the event loop get their turn: about half a millisecond."""

ATTEMPTS_MAX: Final = 8
"""Message ids that are tried for one fact in one round. Whoever takes the second one has read the fact already."""
TAKEN_TOLD_SECS: Final = 10.0
"""Between two lines of the log that say that message ids were taken: each costs a stranger one message."""

_log = logging.getLogger("aigw.facts")

Mark = Callable[[], tuple[int, int] | None]
"""Segment and offset up to which the spool is written for certain; None where nobody writes it any more."""


@dataclass(slots=True)
class _Published:
    """A fact without its acknowledgement."""

    id: str
    payload: bytes
    attempt: int = 0
    """Which of its message ids was tried last."""


class _Doubt(Exception):
    """It is not known any more what the stream holds."""


def load_cursor(directory: Path, files: Files) -> Cursor:
    """The beginning, where there is none that can be read."""
    try:
        return parse_cursor(files.read(directory / CURSOR_NAME)) or Cursor()
    except OSError:
        return Cursor()


class SpoolPublisher:
    """Publishes one spool. Lives as long as the spool; ``publish`` runs once for each connection."""

    def __init__(
        self,
        directory: Path,
        subject: str,
        mark: Mark,
        *,
        files: Files | None = None,
        on_progress: Callable[[int, Cursor], None] | None = None,
        on_taken: Callable[[], None] | None = None,
    ) -> None:
        """``on_progress``: called with the number of facts acknowledged since the last call, and the cursor.
        ``on_taken``: called for each message id under which somebody else has published."""
        self._directory = directory
        self._subject = subject
        self._mark = mark
        self._files = files if files is not None else Files()
        self._on_progress = on_progress
        self._on_taken = on_taken
        self._published: dict[int, _Published] = {}
        """By the sequence in the spool: at most IN_FLIGHT_MAX and one."""
        self._duplicates: deque[tuple[int, int]] = deque()
        """Answers that are not believed yet: the sequence in the spool, and the one in the stream."""
        self._taken_told = -TAKEN_TOLD_SECS
        self.cursor = load_cursor(directory, self._files)
        self._saved = self.cursor
        self._outbox: Outbox | None = None
        self._limit = 1
        self._doubt: str | None = None
        self._changed = asyncio.Event()
        self._told: str | None = None
        self._newly_acked = 0
        self._saving = threading.Lock()

    def wake(self) -> None:
        """Something was written."""
        self._changed.set()

    async def publish(self, link: NatsLink, stream: Stream) -> None:
        """Until the connection is lost; of a spool that nobody writes, until everything is published.

        Raises LinkLost, LinkTimeout, OSError, and SpoolFormatError.
        """
        inbox = link.client.new_inbox()
        subscription = await link.client.subscribe(f"{inbox}.*", cb=self._on_answer)
        saving = asyncio.get_running_loop().create_task(self._keep_cursor())
        try:
            while True:
                try:
                    await self._round(link, stream, inbox)
                    return
                except (_Doubt, ApiError) as doubt:
                    self._tell(str(doubt))
                    await asyncio.sleep(RETRY_SECS)
        finally:
            saving.cancel()
            self._note_progress()
            self._save()
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _round(self, link: NatsLink, stream: Stream, inbox: str) -> None:
        """Returns when nothing is left of a spool that nobody writes."""
        written = self._mark()
        behind = read_back_from(self.cursor, stream.identity)
        found = await read_back(link, stream, self._subject, behind)
        outbox = self._outbox = Outbox(self.cursor, stream.identity, found)
        self._doubt, self._limit = None, 1
        self._published.clear()
        self._duplicates.clear()
        follower = Follower(self._directory, Position(self.cursor.segment, self.cursor.offset, self.cursor.sequence))
        try:
            while True:
                self._changed.clear()
                await self._resolve(link, stream, outbox, inbox)
                mark = self._mark()
                records = follower.read(below=mark, final=mark is None)
                self._tell_damage(follower)
                at = follower.position
                await self._offer(link, stream, outbox, inbox, records, at.segment)
                # Of a process that has written nothing yet the mark says nothing: the end of what is there does.
                if not records or (written is not None and (0, 0) < written <= (at.segment, at.offset)):
                    outbox.forget_found()
                if not records:
                    if mark is None and outbox.is_settled:
                        self._told = None
                        return
                    await self._wait(outbox)
        except _Doubt:
            await self._settle(outbox)
            raise
        finally:
            self._note_progress()
            self._outbox = None

    async def _offer(
        self, link: NatsLink, stream: Stream, outbox: Outbox, inbox: str, records: list[Record], segment: int
    ) -> None:
        in_a_row = 0
        for record in records:
            key = content_key(record.payload) if record.kind == Kind.FACT else None
            if not outbox.offer(key, segment, record.end, record.sequence):
                continue
            while outbox.in_flight > self._limit:
                if self._duplicates:
                    await self._resolve(link, stream, outbox, inbox)
                    continue
                await self._wait(outbox)
                self._changed.clear()
            published = self._published[record.sequence] = _Published(record.id, record.payload)
            await self._send(link, inbox, record.sequence, published)
            in_a_row += 1
            if in_a_row >= IN_A_ROW_MAX:
                in_a_row = 0
                await asyncio.sleep(0)
        self._check()

    async def _send(self, link: NatsLink, inbox: str, sequence: int, fact: _Published) -> None:
        headers = {ID_HEADER: message_id(fact.id, fact.payload, fact.attempt)}
        await link.client.publish(self._subject, fact.payload, reply=f"{inbox}.{sequence}", headers=headers)

    async def _resolve(self, link: NatsLink, stream: Stream, outbox: Outbox, inbox: str) -> None:
        """Finds out whose message it is that the stream has under the id of a fact."""
        while self._duplicates:
            sequence, stream_seq = self._duplicates.popleft()
            fact = self._published.get(sequence)
            if fact is None:
                continue
            if await holds(link, stream, self._subject, stream_seq, fact.payload):
                self._acked(outbox, sequence, stream_seq)
                continue
            self._tell_taken(fact, stream_seq)
            fact.attempt += 1
            if fact.attempt >= ATTEMPTS_MAX:
                raise _Doubt("all message ids of a fact are taken by somebody else")
            await self._send(link, inbox, sequence, fact)

    def _acked(self, outbox: Outbox, sequence: int, stream_seq: int) -> None:
        fact = self._published.pop(sequence, None)
        if fact is not None and outbox.acked(sequence, stream_seq, in_order=not fact.attempt):
            self._limit = min(2 * self._limit, IN_FLIGHT_MAX)
            self._newly_acked += 1

    async def _wait(self, outbox: Outbox) -> None:
        """For an answer, or for more to publish. Raises _Doubt where an answer is due too long."""
        self._check()
        if outbox.is_settled:
            self._note_progress()
        before = outbox.in_flight
        try:
            async with asyncio.timeout(ACK_SECS if before else None):
                await self._changed.wait()
        except TimeoutError:
            if outbox.in_flight >= before:
                raise _Doubt("no acknowledgement in time") from None
        self._check()

    async def _settle(self, outbox: Outbox) -> None:
        """Lets answers come in that are under way: the less is in the air, the less a new round has to ask for."""
        deadline = time.monotonic() + ACK_SECS
        while outbox.in_flight and (left := deadline - time.monotonic()) > 0:
            before = outbox.in_flight
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, RETRY_SECS)):
                    await self._changed.wait()
            except TimeoutError:
                if outbox.in_flight == before:
                    return

    def _check(self) -> None:
        if self._doubt is not None:
            raise _Doubt(self._doubt)

    async def _on_answer(self, message: Msg) -> None:
        outbox = self._outbox
        self._changed.set()
        if outbox is None:
            return
        try:
            sequence = int(message.subject.rpartition(".")[2])
            row = json.loads(message.data) if message.data else {}
            error = row.get("error")
            if error is None and "seq" in row:
                if row.get("duplicate"):
                    self._duplicates.append((sequence, int(row["seq"])))
                else:
                    self._acked(outbox, sequence, int(row["seq"]))
                return
        except (ValueError, AttributeError):
            error = None
        # Without a body: nobody takes the subject just now.
        self._doubt = str(error.get("description", "")) if isinstance(error, dict) else "no stream takes the facts"

    # The cursor

    def _note_progress(self) -> None:
        if self._outbox is None:
            return
        # Its beginning is looked for only now and then: it looks at all that was found.
        self.cursor = self._outbox.cursor()
        if self._newly_acked:
            self._told = None
        if self._on_progress is not None:
            self._on_progress(self._newly_acked, self.cursor)
        self._newly_acked = 0

    async def _keep_cursor(self) -> None:
        while True:
            await asyncio.sleep(CURSOR_SECS)
            self._note_progress()
            if self.cursor != self._saved:
                await asyncio.to_thread(self._save)

    def _save(self) -> None:
        # A thread may still be at it when the connection ends.
        with self._saving:
            cursor = self.cursor
            if cursor == self._saved:
                return
            try:
                self._files.write_whole(self._directory / CURSOR_NAME, cursor.encode())
                self._saved = cursor
            except OSError as error:
                # The old one is as good, if slower.
                _log.warning("the cursor of the published facts cannot be written: %s", error.strerror)

    # The log

    def _tell(self, reason: str) -> None:
        """Once for each reason in a row."""
        if reason != self._told:
            self._told = reason
            fields = {"subject": self._subject, "reason": reason}
            _log.warning("facts wait in the spool: they cannot be published", extra={"fields": fields})

    def _tell_taken(self, fact: _Published, stream_seq: int) -> None:
        if self._on_taken is not None:
            self._on_taken()
        now = time.monotonic()
        if now - self._taken_told >= TAKEN_TOLD_SECS:
            self._taken_told = now
            fields = {"subject": self._subject, "fact": fact.id, "stream_seq": stream_seq}
            text = "somebody else has published under the message id of a fact, which is published under another one"
            _log.error(text, extra={"fields": fields})

    def _tell_damage(self, follower: Follower) -> None:
        for segment, start, end in follower.damage:
            fields = {"spool": self._directory.name, "segment": segment, "from": start, "to": end}
            _log.error("a part of the spool cannot be read and is not published", extra={"fields": fields})
        follower.damage.clear()
