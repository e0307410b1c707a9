"""Reading heads: request line or status line, header fields, and the framing that follows from them.

Where RFC 9112 lets a recipient choose between repairing and refusing, we refuse: a message that two
parsers read differently is how requests are smuggled.
"""

from __future__ import annotations

import re
from typing import Any, Final

from aigw_core.errors import RemoteProtocolError
from aigw_core.headers import Field, Headers, never_crosses
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead, ResponseHead

HEAD_MAX: Final = 65_536
"""Bytes of one head, and of one trailer section: above what providers send, below what hurts per connection."""
_HEAD_WITH_END_MAX: Final = HEAD_MAX + len(b"\r\n\r\n")
FIELDS_MAX: Final = 128
"""Header fields of one head."""
_NAME_CACHE_MAX: Final = 4_096
"""Distinct spellings of field names remembered as valid: a few hundred are in use. Dropped whole when full, so
that invented names cannot keep the common ones out."""
_NAME_CACHED_SIZE_MAX: Final = 64
"""Bytes of a name worth remembering: a head can hold one of 64 KiB, and strangers send heads."""

_LINE_CACHE_MAX: Final = 2_048
"""Whole lines remembered. Half of what a head says was said by the one before: 2.6 µs a head instead of 4.8."""
_LINE_CACHED_SIZE_MAX: Final = 192
_RECURRING: Final = frozenset(
    b"date host user-agent accept accept-encoding accept-language content-type connection keep-alive server vary via"
    b" cache-control transfer-encoding anthropic-version anthropic-beta openai-version openai-organization"
    b" x-stainless-arch x-stainless-async x-stainless-lang x-stainless-os x-stainless-package-version"
    b" x-stainless-read-timeout x-stainless-retry-count x-stainless-runtime x-stainless-runtime-version"
    b" x-stainless-timeout x-stainless-helper-method x-ratelimit-limit-requests x-ratelimit-limit-tokens"
    b" x-content-type-options strict-transport-security alt-svc cf-cache-status access-control-allow-origin".split()
)
"""Names whose lines may be remembered: few values each, and no credential among them."""

# RFC 9110 §5.6.2 token; §5.5 field-value: VCHAR, obs-text, SP, HTAB.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CR: Final = 13
_HEAD_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
# RFC 3986: everything visible in ASCII may occur percent-encoded or plain; "#" never reaches a server.
_TARGET_BYTES = bytes(b for b in range(0x21, 0x7F) if b != ord("#"))
# RFC 3986 §3.2.2 and §3.2.3; userinfo has no place in Host (RFC 9110 §7.2).
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+;=]+)(?::[0-9]{0,5})?")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
LENGTH_DIGITS_MAX: Final = 18
"""Digits of a Content-Length: what fits into 64 bits, and more than anybody sends."""
_STATUS = re.compile(rb"[1-9][0-9][0-9]")

_names: dict[bytes, tuple[bytes, bool]] = {}
"""Lower-case form of a valid name, and whether such a field crosses from one side to the other."""
_seen_lines: dict[bytes, Field] = {}
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})


def _judge_name(name: bytes) -> tuple[bytes, bool]:
    if _TOKEN.fullmatch(name) is None:
        raise RemoteProtocolError("A header field name is not a token.")
    lower = name.lower()
    judged = lower, not never_crosses(lower)
    if len(name) <= _NAME_CACHED_SIZE_MAX:
        if len(_names) >= _NAME_CACHE_MAX:
            _names.clear()
        _names[name] = judged
    return judged


def parse_fields(lines: list[bytes]) -> Headers:
    """Header fields from lines without their CRLF.

    Raises RemoteProtocolError (400; 431 for too many). A line that starts with SP or HTAB (obs-fold),
    a space before the colon and an empty name all fail as names that are no token (RFC 9112 §5.1, §5.2).
    """
    if len(lines) > FIELDS_MAX:
        raise RemoteProtocolError("There are too many header fields.", 431)
    fields: list[Any] = list(map(_seen_lines.get, lines))
    if None in fields:
        for at, field in enumerate(fields):
            if field is None:
                fields[at] = _parse_field(lines[at])
    return Headers.parsed(fields)


def _parse_field(line: bytes) -> Field:
    name, colon, value = line.partition(b":")
    if not colon:
        raise RemoteProtocolError("A header line has no colon.")
    lower, crosses = _names.get(name) or _judge_name(name)
    value = value.strip(b" \t")
    written = b"%b: %b\r\n" % (name, value)
    field = (lower, name, value, written, written if crosses else b"")
    if lower in _RECURRING and len(line) <= _LINE_CACHED_SIZE_MAX:
        if len(_seen_lines) >= _LINE_CACHE_MAX:
            _seen_lines.clear()
        _seen_lines[line] = field
    return field


def split_lines(block: bytes, what: str = "head") -> list[bytes]:
    """The lines of a head or trailer section without its blank line.

    Raises RemoteProtocolError (400) for control bytes, bare CR and bare LF.
    """
    lines = block.split(b"\r\n")
    if block.translate(None, _HEAD_BYTES) != b"\r\n" * (len(lines) - 1):
        raise RemoteProtocolError(f"The {what} contains control bytes or bare line breaks.")
    return lines


def find_head_end(buffer: bytes | bytearray, searched: int, what: str = "head") -> int:
    """Offset of the blank line that ends a head or trailer section, or -1 while it is incomplete.

    ``searched`` bytes were looked at before. Raises RemoteProtocolError (400, 431) as soon as a byte rules out
    that a well-formed end follows, so that a peer which ends its lines with LF alone is refused instead of
    waited for. The first such byte decides, wherever the reads were split.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if 0 <= end <= HEAD_MAX:
        return end
    start = searched - 1 if searched and buffer[searched - 1] == _CR else searched
    news = buffer[start:_HEAD_WITH_END_MAX]
    expected = b"\r\n" * news.count(b"\r\n")
    if news.endswith(b"\r"):
        expected += b"\r"
    if news.translate(None, _HEAD_BYTES) != expected:
        raise RemoteProtocolError(f"The {what} contains control bytes or bare line breaks.")
    if len(buffer) >= _HEAD_WITH_END_MAX:
        raise RemoteProtocolError(f"The {what} is too large.", 431)
    return -1


def _framing_fields(headers: Headers, http_1_0: bool) -> Framing | None:
    """Chunked, Length, or None where no field speaks of framing (RFC 9112 §6).

    Raises RemoteProtocolError for both fields, repeated fields, lists, and anything that is not plainly
    one of the two.
    """
    first = headers.first
    if not headers.repeated and b"transfer-encoding" not in first:
        length = first.get(b"content-length")
        if length is None:
            return None
        # bytes.isdigit knows ASCII digits only, unlike that of str.
        if len(length) <= LENGTH_DIGITS_MAX and length.isdigit():
            return Length(int(length))
    lengths = headers.get_all(b"content-length")
    codings = headers.get_all(b"transfer-encoding")
    if codings:
        if lengths:
            raise RemoteProtocolError("Content-Length stands beside Transfer-Encoding.")
        if http_1_0:
            raise RemoteProtocolError("Transfer-Encoding in an HTTP/1.0 message.")
        if len(codings) == 1 and codings[0].lower() == b"chunked":
            return CHUNKED
        raise _coding_error(codings)
    if not lengths:
        return None
    if len(lengths) > 1 or len(lengths[0]) > LENGTH_DIGITS_MAX or not lengths[0].isdigit():
        raise RemoteProtocolError("Content-Length is not one plain number.")
    return Length(int(lengths[0]))


def _coding_error(codings: list[bytes]) -> RemoteProtocolError:
    """501 for a well-formed coding that we do not speak (RFC 9112 §6.1), 400 for everything that could smuggle."""
    if len(codings) == 1:
        names = [part.strip(b" \t").lower() for part in codings[0].split(b",")]
        if b"chunked" not in names[:-1] and all(_TOKEN.fullmatch(name) for name in names):
            return RemoteProtocolError("This transfer coding is not supported.", 501)
    return RemoteProtocolError("Transfer-Encoding is not exactly chunked.")


def _origin_form(target: bytes, host: bytes | None) -> bytes:
    """The target in origin-form (RFC 9112 §3.2); an absolute-form must name the authority of Host."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise RemoteProtocolError("The request target has no form that is served here.")
    cut = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if host is None or authority.lower() != host.lower():
        raise RemoteProtocolError("The authority of the target is not the Host.")
    return path if path.startswith(b"/") else b"/" + path


def parse_request_head(block: bytes) -> RequestHead:
    """A request head from the bytes before its blank line.

    Raises RemoteProtocolError with status 400, 431, 501 or 505.
    """
    lines = split_lines(block)
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise RemoteProtocolError("The request line is malformed.")
    method, target, version = parts
    if version == b"HTTP/1.1":
        http_1_0 = False
    elif version == b"HTTP/1.0":
        http_1_0 = True
    elif _VERSION.fullmatch(version):
        raise RemoteProtocolError("Only HTTP/1.0 and HTTP/1.1 are served.", 505)
    else:
        raise RemoteProtocolError("The request line is malformed.")
    if method not in _METHODS and (_TOKEN.fullmatch(method) is None or method == b"CONNECT"):
        raise RemoteProtocolError("The method is not served here.")
    if not target or target.translate(None, _TARGET_BYTES):
        raise RemoteProtocolError("The request target contains bytes that do not belong there.")
    headers = parse_fields(lines[1:])
    host = headers.first.get(b"host")
    if (host is None and not http_1_0) or (headers.repeated and len(headers.get_all(b"host")) > 1):
        raise RemoteProtocolError("Exactly one Host is needed.")
    if host is not None and _HOST.fullmatch(host) is None:
        raise RemoteProtocolError("Host is malformed.")
    framing = _framing_fields(headers, http_1_0)
    if not target.startswith(b"/"):
        target = _origin_form(target, host)
    return RequestHead(method, target, headers, framing or NO_BODY, http_1_0)


def parse_response_head(block: bytes, request_method: bytes) -> ResponseHead:
    """A response head from the bytes before its blank line.

    Raises RemoteProtocolError with status 502.
    """
    try:
        return _parse_response_head(block, request_method)
    except RemoteProtocolError as error:
        error.status = 502
        raise


def _parse_response_head(block: bytes, request_method: bytes) -> ResponseHead:
    lines = split_lines(block)
    version, _, rest = lines[0].partition(b" ")
    # Servers are seen that leave out the blank after the code; nothing else can be meant by it.
    code, _, reason = rest.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or _STATUS.fullmatch(code) is None:
        raise RemoteProtocolError("The status line is malformed.")
    status = int(code)
    http_1_0 = version == b"HTTP/1.0"
    headers = parse_fields(lines[1:])
    framing = _framing_fields(headers, http_1_0)
    if request_method == b"HEAD" or status < 200 or status in (204, 304):
        framing = NO_BODY
    elif framing is None:
        framing = UNTIL_CLOSE
    return ResponseHead(status, reason, headers, framing, http_1_0)
