"""What the tests of the Meter and its parts share."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from aigw_core.usage import Meter, MeterResult, usage_profile
from aigw_core.wires import Wire

RECORDINGS = Path(__file__).parents[2] / "data" / "usage"

SSE = b"text/event-stream"
JSON = b"application/json"


def recording(name: str) -> bytes:
    """A small recording in a provider's shape, written for these tests."""
    return (RECORDINGS / name).read_bytes()


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    """Pieces of `data`; cuts are taken modulo its length, so any integers do."""
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class Run:
    """One answer through a Meter: what was relayed, the Meter and its result at the end."""

    def __init__(
        self,
        pieces: list[bytes] | bytes,
        *,
        wire: Wire = Wire.CHAT_COMPLETIONS,
        provider: str = "openai",
        status: int = 200,
        content_type: bytes = SSE,
        content_encoding: bytes = b"",
        strip: bool = False,
        clean: bool | None = True,
        request_bytes: int = 0,
    ) -> None:
        """`clean` None leaves finish() out, as where the caller left."""
        self.meter = Meter(wire, usage_profile(provider), strip_usage_event=strip)
        self.meter.request_bytes_hint = request_bytes
        self.meter.response_head(status, content_type, content_encoding)
        pieces = [pieces] if isinstance(pieces, bytes) else pieces
        self.relayed = b""
        for piece in pieces:
            self.relayed += self.meter.feed(piece)
            while self.meter.is_unread:
                self.meter.resume()
        if clean is not None:
            self.relayed += self.meter.finish(clean)
        self.result: MeterResult = self.meter.result()
