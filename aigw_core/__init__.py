"""aigw_core: the whole behaviour of the gateway as a pure state machine.

No sockets, files, clocks or randomness: bytes and time go in, effects come out. Start with
:class:`Connection` if you have bytes, with :class:`Exchange` if you have parsed HTTP; both share a
:class:`Gateway`. Every part also stands alone: :class:`KeyRing`, :class:`DenySet`, :class:`DenyFeed`,
:class:`Limiter`, :class:`Meter`. ``__all__`` is the promise.
"""

from aigw_core.connection import Connection
from aigw_core.denyfeed import DenyFeed
from aigw_core.denyset import DenyChange, DenyReason, DenyScope, DenySet, DenySubject
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    ConnectFailure,
    CutResponse,
    Effect,
    EmitFact,
    ExchangeEffect,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    SendUpstream,
    VoidFact,
)
from aigw_core.errors import Dialect, LocalProtocolError, Reason, Rejection, RemoteProtocolError
from aigw_core.exchange import Exchange
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.feeding import ConnectionFeeder, FactSink, Feeder
from aigw_core.gateway import Cuttable, Gateway
from aigw_core.headers import Headers
from aigw_core.keys import (
    KeyFault,
    KeyRing,
    ParsedKey,
    VirtualKey,
    VirtualKeyError,
    fingerprint,
    mint_virtual_key,
    parse_virtual_key,
    public_key_of,
)
from aigw_core.limiter import Aggregate, Limiter
from aigw_core.messages import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Chunked,
    Framing,
    Length,
    NoBody,
    RequestHead,
    ResponseHead,
    UntilClose,
)
from aigw_core.origin import Origin, parse_origin
from aigw_core.policy import AdmissionHook, Byo, ModelHook, OnClientAbort, Policy, ProviderPolicy, StoredRefs, Timeouts
from aigw_core.pool import UpstreamPool
from aigw_core.providers import PROVIDERS, AuthScheme, Provider
from aigw_core.resolver import AddressCache
from aigw_core.routing import Route, ScopeTable
from aigw_core.secrets import Secret
from aigw_core.timers import Timer
from aigw_core.usage.meter import Meter, MeterResult, UsageStatus
from aigw_core.usage.profile import UsageProfile, usage_profile
from aigw_core.usage.request import IncludeUsage
from aigw_core.wires import Wire

__all__ = [
    "CHUNKED",
    "NO_BODY",
    "PROVIDERS",
    "UNTIL_CLOSE",
    "AddressCache",
    "AdmissionHook",
    "Aggregate",
    "AuthScheme",
    "Byo",
    "Chunked",
    "Close",
    "CloseDownstream",
    "Connect",
    "ConnectFailure",
    "Connection",
    "ConnectionFeeder",
    "CutResponse",
    "Cuttable",
    "DenyChange",
    "DenyFeed",
    "DenyReason",
    "DenyScope",
    "DenySet",
    "DenySubject",
    "Dialect",
    "Effect",
    "EmitFact",
    "Exchange",
    "ExchangeEffect",
    "FactSink",
    "Feeder",
    "Framing",
    "Gateway",
    "Headers",
    "IncludeUsage",
    "KeyFault",
    "KeyRing",
    "Length",
    "Limiter",
    "LocalProtocolError",
    "Meter",
    "MeterResult",
    "ModelHook",
    "NoBody",
    "OnClientAbort",
    "OpenFact",
    "OpenRecord",
    "Origin",
    "Outcome",
    "ParsedKey",
    "Policy",
    "Provider",
    "ProviderPolicy",
    "Reason",
    "Rejection",
    "ReleaseUpstream",
    "RemoteProtocolError",
    "RequestHead",
    "ResponseHead",
    "Route",
    "ScopeTable",
    "Secret",
    "SendDownstream",
    "SendInformational",
    "SendRequestBody",
    "SendRequestEnd",
    "SendRequestHead",
    "SendResponseBody",
    "SendResponseEnd",
    "SendResponseHead",
    "SendUpstream",
    "StoredRefs",
    "Timeouts",
    "Timer",
    "UntilClose",
    "UpstreamPool",
    "UsageFact",
    "UsageProfile",
    "UsageStatus",
    "VirtualKey",
    "VirtualKeyError",
    "VoidFact",
    "Wire",
    "fingerprint",
    "mint_virtual_key",
    "parse_origin",
    "parse_virtual_key",
    "public_key_of",
    "usage_profile",
]
