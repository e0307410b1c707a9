"""Chunked reader: any split gives the same payload, rest or refusal, and a rewritten body reads the same."""

from __future__ import annotations

from typing import Final

from aigw_core.http1 import bodies
from aigw_core.http1.bodies import ChunkedReader
from aigw_core.http1.writing import LAST_CHUNK, chunk
from fuzz.inputs import Case, case_of, limits
from tests.core.http1.reading import read_body

TOKENS: Final = (
    b"0\r\n\r\n", b"3\r\nabc\r\n", b"3;x=y\r\n", b"\r\n", b"0\r\nT: v\r\n\r\n", b"FFFFFFFFFFFFFFFF\r\n",
    b"0x3\r\n", b"\r", b"\n", b"7fffffffffffffff\r\n", b"00000000000000003\r\n", b";",
)  # fmt: skip


def check(data: bytes) -> None:
    """Option bit 0: small limits for lines and extensions."""
    case = case_of(data)
    if case.options & 1:
        with limits((bodies, "CHUNK_EXTENSIONS_MAX", 24), (bodies, "_CHUNK_LINE_MAX", 16)):
            _check(case)
    else:
        _check(case)


def _check(case: Case) -> None:
    whole = read_body(ChunkedReader(), [case.data])
    assert read_body(ChunkedReader(), case.pieces) == whole, "the split changes the body"
    assert len(whole.payload) <= len(case.data)
    if whole.rest is not None:
        assert whole.fault is None
        assert case.data.endswith(whole.rest)
        rewritten = (chunk(whole.payload) if whole.payload else b"") + LAST_CHUNK
        again = read_body(ChunkedReader(), [rewritten + whole.rest])
        assert (again.payload, again.rest) == (whole.payload, whole.rest)
