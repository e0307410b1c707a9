"""What goes wrong on purpose, by name."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """One kind of trouble; each is counted where it really happens, not where it was planned."""

    # The caller
    SPLIT = "split"
    BYTEWISE = "bytewise"
    PIPELINED = "pipelined"
    CALLER_RESET = "caller_reset"
    CALLER_EOF = "caller_eof"
    CALLER_STALLS_HEAD = "caller_stalls_head"
    CALLER_STALLS_BODY = "caller_stalls_body"
    CALLER_GARBAGE = "caller_garbage"
    CALLER_BROKEN_CHUNK = "caller_broken_chunk"
    CALLER_READS_SLOWLY = "caller_reads_slowly"
    CALLER_NEVER_READS = "caller_never_reads"
    CALLER_IGNORES_CLOSE = "caller_ignores_close"
    # The provider
    DNS_FAILS = "dns_fails"
    CONNECT_FAILS = "connect_fails"
    TLS_FAILS = "tls_fails"
    CONNECT_STALLS = "connect_stalls"
    RESET_BEFORE_HEAD = "reset_before_head"
    RESET_IN_HEAD = "reset_in_head"
    RESET_IN_BODY = "reset_in_body"
    EOF_IN_BODY = "eof_in_body"
    STALLS_BEFORE_HEAD = "stalls_before_head"
    STALLS_IN_BODY = "stalls_in_body"
    GARBAGE_HEAD = "garbage_head"
    GARBAGE_CHUNK = "garbage_chunk"
    EXTRA_BYTES = "extra_bytes"
    UNSOLICITED_BYTES = "unsolicited_bytes"
    IDLE_CLOSED = "idle_closed"
    IDLE_BYTES = "idle_bytes"
    STALE_REUSED = "stale_reused"
    DIES_UNUSED = "dies_unused"
    EARLY_ANSWER = "early_answer"
    INTERIM_HEADS = "interim_heads"
    INTERIM_FLOOD = "interim_flood"
    SWITCHING_PROTOCOLS = "switching_protocols"
    PROVIDER_READS_SLOWLY = "provider_reads_slowly"
    PROVIDER_NEVER_READS = "provider_never_reads"
    ECHOES_POOL_KEY = "echoes_pool_key"
    # What surrounds them
    LATE_INPUT = "late_input"
    FOREIGN_FACT_ANSWER = "foreign_fact_answer"
    SINK_REFUSES = "sink_refuses"
    SINK_NEVER_ANSWERS = "sink_never_answers"
    SINK_ANSWERS_LATE = "sink_answers_late"
    DENY_PUT = "deny_put"
    DENY_REMOVED = "deny_removed"
    FEED_CUT = "feed_cut"
    FEED_REPLAYS = "feed_replays"
    STREAM_CUT_BY_DENY = "stream_cut_by_deny"
    LIMIT_REACHED = "limit_reached"
    POLICY_RELOAD = "policy_reload"
    CLOCK_JUMP = "clock_jump"
    DRAIN = "drain"
    GRACE_OVER = "grace_over"
    ABANDONED = "abandoned"
    READS_IN_TURNS = "reads_in_turns"


class Violation(AssertionError):
    """The gateway did what the model rules out."""


def require(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)
