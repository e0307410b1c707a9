"""The trace id of a request, for the log. Trace context itself passes as it is (W3C Trace Context §2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aigw_core.headers import Headers

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<rest>-.*)?",
    re.DOTALL,
)
"""W3C Trace Context §3.2.2: all-zero ids and version ff are invalid; later versions may add members behind a dash."""


def trace_id_of(headers: Headers) -> str | None:
    """32 hex digits, or None where there is not exactly one valid ``traceparent``: other text is never handed on."""
    if b"traceparent" not in headers.first:
        return None
    values = headers.get_all(b"traceparent")
    found = _TRACEPARENT.fullmatch(values[0])
    if found is None or len(values) != 1 or (found["version"] == b"00" and found["rest"] is not None):
        return None
    return found["trace"].decode("ascii")
