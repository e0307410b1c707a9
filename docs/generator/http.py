"""What the codec accepts and refuses, found out by asking it: each row is fed to a Connection."""

from __future__ import annotations

from typing import Final, NamedTuple

from aigw_core.connection import Connection
from aigw_core.effects import Close, CloseDownstream, Connect, Effect, SendDownstream, SendUpstream
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter
from aigw_core.policy import Policy
from docs.generator.markdown import table

_BYO: Final = b"Authorization: Bearer sk-example\r\n"
_GET: Final = b"GET /openai/v1/models HTTP/1.1\r\nHost: gateway\r\n" + _BYO
_POST: Final = b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n" + _BYO
_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Case(NamedTuple):
    """A message that breaks, or just keeps, a rule."""

    what: str
    message: bytes
    source: str


# fmt: off
REFUSED: Final = (
    Case("Content-Length beside Transfer-Encoding", _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "RFC 9112 §6.1"),
    Case("Content-Length twice, even with equal values", _POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n", "§6.3"),
    Case("a list in Content-Length", _POST + b"Content-Length: 2, 2\r\n\r\n", "§6.3"),
    Case("Content-Length with a sign, blank, underscore or hex digits", _POST + b"Content-Length: +2\r\n\r\n", "RFC 9110 §8.6"),
    Case("Transfer-Encoding twice", _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "§6.1"),
    Case("chunked with parameters, or not last", _POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", "§6.1"),
    Case("another transfer coding", _POST + b"Transfer-Encoding: gzip\r\n\r\n", "§6.1"),
    Case("Transfer-Encoding in HTTP/1.0", b"POST /openai/v1/x HTTP/1.0\r\n" + _BYO + b"Transfer-Encoding: chunked\r\n\r\n", "§6.1"),
    Case("a folded header line (obs-fold)", _GET + b"X: a\r\n b\r\n\r\n", "§5.2"),
    Case("a blank before the colon", _GET + b"X : a\r\n\r\n", "§5.1"),
    Case("an empty field name, or one that is no token", _GET + b": a\r\n\r\n", "RFC 9110 §5.1"),
    Case("a header line without a colon", _GET + b"X\r\n\r\n", "§5"),
    Case("a bare LF", _GET + b"X: a\n\r\n", "§2.2"),
    Case("a bare CR", _GET + b"X: a\rb\r\n\r\n", "§2.2"),
    Case("NUL or another control byte in a value", _GET + b"X: a\x00b\r\n\r\n", "RFC 9110 §5.5"),
    Case("no Host", b"GET /openai/v1/models HTTP/1.1\r\n" + _BYO + b"\r\n", "§3.2"),
    Case("two Hosts", _GET + b"Host: other\r\n\r\n", "§3.2"),
    Case("a malformed Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "§3.2"),
    Case("an absolute-form target whose authority is not the Host", b"GET http://other/openai/v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n", "§3.2.2"),
    Case("a request target with `#`, a blank or bytes beyond ASCII", b"GET /openai/v1/models#x HTTP/1.1\r\nHost: gateway\r\n\r\n", "§3.2"),
    Case("CONNECT", b"CONNECT host:443 HTTP/1.1\r\nHost: host:443\r\n\r\n", "§3.2.3"),
    Case("an asterisk-form target", b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n", "§3.2.4"),
    Case("HTTP/2.0 or another version", b"GET / HTTP/2.0\r\nHost: gateway\r\n\r\n", "§2.3"),
    Case("a request line that is not three words", b"GET  / HTTP/1.1\r\nHost: gateway\r\n\r\n", "§3"),
    Case("a head of more than 64 KiB", _GET + b"X: " + b"a" * 66_000 + b"\r\n\r\n", "RFC 6585 §5"),
    Case("more than 128 header fields", _GET + b"X: a\r\n" * 128 + b"\r\n", "RFC 6585 §5"),
    Case("`Upgrade: websocket`", _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "RFC 9110 §7.8"),
)

SERVED: Final = (
    Case("obs-text (bytes from 0x80 up) in a value", _GET + b"X: \xe4\r\n\r\n", "RFC 9110 §5.5"),
    Case("HTTP/1.0, with or without Host", b"GET /openai/v1/models HTTP/1.0\r\n" + _BYO + b"\r\n", "§2.3"),
    Case("an absolute-form target whose authority is the Host", b"GET http://gateway/openai/v1/models HTTP/1.1\r\nHost: gateway\r\n" + _BYO + b"\r\n", "§3.2.2"),
    Case("an `Upgrade` to anything but websocket, which is dropped", _GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "RFC 9110 §7.8"),
    Case("`chunked` in any case", _POST + b"Transfer-Encoding: Chunked\r\n\r\n", "RFC 9112 §7"),
    Case("128 header fields", _GET + b"X: a\r\n" * 126 + b"\r\n", ""),
    Case("chunk extensions up to 16 KiB a message, which are dropped", _CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", "§7.1.1"),
    Case("trailers, which are checked and dropped", _CHUNKED + b"2\r\n{}\r\n0\r\nX: a\r\n\r\n", "§7.1.2"),
    Case("`Expect: 100-continue`, answered by the gateway itself", _POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", "RFC 9110 §10.1.1"),
)

_OK: Final = b"HTTP/1.1 200 OK\r\n"
BROKEN_ANSWERS: Final = (
    Case("Content-Length beside Transfer-Encoding", _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", "§6.3"),
    Case("two different Content-Lengths", _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "§6.3"),
    Case("a malformed status line", b"HTTP/1.1 OK\r\n\r\n", "§4"),
    Case("a bare LF in the head", b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\n{}", "§2.2"),
    Case("101 Switching Protocols, which nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "RFC 9110 §7.8"),
    Case("more than sixteen 1xx heads", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, ""),
    Case("a broken chunk size after the head", _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nx\r\n", "§7.1"),
    Case("bytes behind the response", _OK + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n", "§9.2"),
    Case("1xx other than 101", b"HTTP/1.1 103 Early Hints\r\n\r\n" + _OK + b"Content-Length: 2\r\n\r\n{}", "RFC 9110 §15.2"),
    Case("no length and no coding, ended by the connection", _OK + b"\r\n{}", "§6.3 rule 8"),
)

# fmt: on


def _connection() -> Connection:
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    gateway = Gateway(Policy.default(), entropy=bytes(32), limiter=limiter, now=0.0, wall=0.0)
    return Connection(gateway, 0.0)


def _downstream(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, SendDownstream))


def _closes(effects: list[Effect]) -> bool:
    return any(isinstance(effect, CloseDownstream) for effect in effects)


def answer_to(request: bytes) -> str:
    """``served``, or the status of the refusal and whether the connection ends."""
    effects = _connection().receive_downstream(request, 0.0)
    if any(isinstance(effect, Connect) for effect in effects):
        return "served"
    status = _downstream(effects).split(b" ")[1].decode()
    return f"{status}, close" if _closes(effects) else status


def relay_of(answer: bytes) -> str:
    """What the caller gets where a provider answers so to a chunk-free GET."""
    connection = _connection()
    effects = connection.receive_downstream(_GET + b"\r\n", 0.0)
    attempt = next(effect.attempt for effect in effects if isinstance(effect, Connect))
    effects = connection.upstream_connected(attempt, False, 0.0)
    assert any(isinstance(effect, SendUpstream) for effect in effects)
    effects = connection.receive_upstream(attempt, answer, 0.0) + connection.receive_upstream(attempt, b"", 0.0)
    if any(isinstance(effect, CloseDownstream) and effect.how is Close.ABORT for effect in effects):
        return "cut: RST, no last chunk"
    received = _downstream(effects)
    status = received.rpartition(b"HTTP/1.1 ")[2][:3].decode()
    return status if status == "502" else "relayed"


def refused_requests() -> str:
    return _table(REFUSED, [answer_to(case.message) for case in REFUSED], "answer")


def served_requests() -> str:
    answers = [answer_to(case.message) for case in SERVED]
    assert set(answers) == {"served"}, answers
    return table(("served", "source"), [(case.what, case.source) for case in SERVED])


def broken_answers() -> str:
    return _table(BROKEN_ANSWERS, [relay_of(case.message) for case in BROKEN_ANSWERS], "the caller gets")


def _table(cases: tuple[Case, ...], answers: list[str], column: str) -> str:
    rows = [(case.what, answer, case.source) for case, answer in zip(cases, answers, strict=True)]
    return table(("what", column, "source"), rows)
