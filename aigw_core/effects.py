"""What the machine tells its driver to do.

Connection-level effects carry bytes. Exchange-level effects carry parsed HTTP and share every noun
that is not about bytes. Treat all of them as read-only: they are not frozen only because building a
frozen dataclass costs 2.5 times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.messages import RequestHead, ResponseHead
from aigw_core.origin import Origin


class Close(Enum):
    """How a downstream connection ends."""

    LINGER = "linger"
    """Flush, half-close (TLS: close_notify), go on feeding input until the machine is ``done``."""
    ABORT = "abort"
    """Drop the queue and reset: what was cut must not look complete."""


class ConnectFailure(Enum):
    """Why a driver could not get a connection; the value is what the caller reads."""

    DNS = "The provider's name could not be resolved."
    CONNECT = "The provider could not be reached."
    TLS = "The provider's TLS certificate or handshake was not accepted."

    @property
    def retryable(self) -> bool:
        """Another address can help against a refused connection, not against a bad certificate."""
        return self is ConnectFailure.CONNECT


@dataclass(slots=True)
class OpenFact:
    """Hand the open record to the fact sink; answer with ``fact_opened`` or ``fact_refused``."""

    record: OpenRecord


@dataclass(slots=True)
class EmitFact:
    """Hand the closing fact to the sink, into room that was reserved when the record was opened."""

    fact: UsageFact


@dataclass(slots=True)
class VoidFact:
    """The exchange ended while its open record was unanswered: close that record without a fact."""

    id: str


@dataclass(slots=True)
class Connect:
    """Get a connection to ``origin``: an idle one of the pool unless ``fresh``, else a new one.

    ``tries`` counts the connections that failed before in this exchange: take the next address.
    """

    origin: Origin
    attempt: int
    fresh: bool = False
    tries: int = 0


@dataclass(slots=True)
class ReleaseUpstream:
    """The machine is through with this attempt: pool it if ``reusable``, else close or stop connecting."""

    attempt: int
    reusable: bool
    idle_timeout: float = 0.0


@dataclass(slots=True)
class SendUpstream:
    """Append to the write queue of that attempt's connection."""

    attempt: int
    data: bytes


@dataclass(slots=True)
class SendDownstream:
    """Append to the caller's write queue: from here on it counts as relayed."""

    data: bytes


@dataclass(slots=True)
class CloseDownstream:
    """End the caller's connection; nothing is sent after it."""

    how: Close


@dataclass(slots=True)
class SendRequestHead:
    """The head of the request, on that attempt's connection."""

    attempt: int
    head: RequestHead


@dataclass(slots=True)
class SendRequestBody:
    """Bytes of the request body; the driver makes the transfer framing that the head says."""

    attempt: int
    data: bytes


@dataclass(slots=True)
class SendRequestEnd:
    """The request is complete."""

    attempt: int


@dataclass(slots=True)
class SendInformational:
    """A 1xx head for downstream; ours is ``100 Continue``."""

    head: ResponseHead


@dataclass(slots=True)
class SendResponseHead:
    """The final head. ``close``: this connection must not carry another exchange."""

    head: ResponseHead
    close: bool = False


@dataclass(slots=True)
class SendResponseBody:
    """Bytes of the response body, to be sent as they come."""

    data: bytes


@dataclass(slots=True)
class SendResponseEnd:
    """The response is complete."""


@dataclass(slots=True)
class CutResponse:
    """The response ends here although it is not complete: make it visible, by RST or a missing last chunk."""


Effect = OpenFact | EmitFact | VoidFact | Connect | ReleaseUpstream | SendUpstream | SendDownstream | CloseDownstream
"""What a Connection says."""
ExchangeEffect = (
    OpenFact
    | EmitFact
    | VoidFact
    | Connect
    | ReleaseUpstream
    | SendRequestHead
    | SendRequestBody
    | SendRequestEnd
    | SendInformational
    | SendResponseHead
    | SendResponseBody
    | SendResponseEnd
    | CutResponse
)
"""What an Exchange says."""
