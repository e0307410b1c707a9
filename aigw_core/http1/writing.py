"""Serialising heads and re-making transfer framing."""

from __future__ import annotations

from aigw_core.messages import RequestHead, ResponseHead

LAST_CHUNK = b"0\r\n\r\n"


def request_head_bytes(head: RequestHead) -> bytes:
    """Always HTTP/1.1, whatever the caller spoke: the version is a property of the hop (RFC 9110 §2.5)."""
    lines = head.lines if head.lines is not None else head.headers.lines()
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (head.method, head.target, lines)


def response_head_bytes(head: ResponseHead, framing_lines: bytes = b"\r\n") -> bytes:
    """``framing_lines``: whole lines about this hop, and the blank line that ends the head."""
    lines = head.lines if head.lines is not None else head.headers.lines()
    return b"HTTP/1.1 %d %b\r\n%b%b" % (head.status, head.reason, lines, framing_lines)


def chunk(data: bytes) -> bytes:
    """One chunk; never called with empty data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
