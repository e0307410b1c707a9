"""Serialising heads and re-making transfer framing."""

from __future__ import annotations

from aigw_core.messages import RequestHead, ResponseHead

LAST_CHUNK = b"0\r\n\r\n"


def request_head_bytes(head: RequestHead, body: bytes = b"") -> bytes:
    """Always HTTP/1.1, whatever the caller spoke: the version is a property of the hop (RFC 9110 §2.5).

    ``body``: what is to follow in the same bytes.
    """
    lines = head.lines if head.lines is not None else head.headers.lines()
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (head.method, head.target, lines, body)


def response_head_bytes(head: ResponseHead, framing_lines: bytes = b"\r\n", body: bytes = b"") -> bytes:
    """``framing_lines``: lines about this hop, and the blank line that ends the head. ``body`` as of a request."""
    lines = head.lines if head.lines is not None else head.headers.lines()
    return b"HTTP/1.1 %d %b\r\n%b%b%b" % (head.status, head.reason, lines, framing_lines, body)


def chunk(data: bytes) -> bytes:
    """One chunk; never called with empty data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
