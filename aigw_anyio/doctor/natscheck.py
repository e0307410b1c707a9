"""Checks of NATS: the connection, the bucket of deny entries, the stream of facts, and what we may do there.

Nothing is left behind: a consumer is made and deleted, and one message is published that the stream must refuse.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nats import errors

from aigw_anyio.deny.sources import nats_options
from aigw_anyio.doctor.report import Finding, ok, skipped, warning, wrong
from aigw_anyio.nats.connection import LinkLost, LinkTimeout, NatsLink, reason_of
from aigw_anyio.nats.denywrite import WriteProblem, on_bucket
from aigw_anyio.nats.factstream import stream_problems
from aigw_anyio.nats.jetstream import STREAM_NOT_FOUND, ApiError, answer_of, request
from aigw_anyio.settings import Settings
from aigw_anyio.settings.model import DenySource, FactSinkKind

CALL_SECS: Final = 3.0
"""For one answer; what we may not do is answered by none."""
FULL_SHARE_HIGH: Final = 0.8
"""Of a stream's bytes or messages: facts are never deleted, so there is time to enlarge it, but not for ever."""
LAG_MANY: Final = 10_000
"""Facts that a consumer has not read: more than a busy minute."""
CONSUMERS_SHOWN_MAX: Final = 20
"""Of one stream; the server gives them in pages of 256."""
NAME: Final = "aigw doctor"
_WRONG_STREAM: Final = 10060
"""The stream is not the one that the message expects (JetStream error code)."""
_JETSTREAM_FIX: Final = "enable JetStream for this account (`jetstream {}` in the server's configuration)"


def uses_nats(settings: Settings) -> bool:
    return settings.effective_deny_source is DenySource.NATS or settings.fact_sink is FactSinkKind.NATS


async def check_nats(settings: Settings) -> list[Finding]:
    """Runs in asyncio."""
    if not uses_nats(settings):
        return [skipped("nats", "nats_url", "neither the deny-set nor the facts use NATS")]
    options = nats_options(settings)
    servers = ", ".join(options.servers)
    found: list[Finding] = []

    async def work(link: NatsLink) -> None:
        found.append(ok("nats", "nats_url", f"connected to {servers}"))
        if settings.effective_deny_source is DenySource.NATS:
            found.extend(await _bucket(link, settings.nats_bucket))
        if settings.fact_sink is FactSinkKind.NATS:
            found.extend(await _facts(link, settings.facts_subject, settings.facts_stream))

    try:
        await on_bucket(options, work, name=NAME)
    except WriteProblem as error:
        fix = "look at nats_url, nats_creds and nats_ca_file; is the server there, does it know this user?"
        found.append(wrong("nats", "nats_url", f"{servers} cannot be used", why=str(error), fix=fix))
    return found


class _Denied(Exception):
    """A request was not answered, or refused."""


async def _ask(link: NatsLink, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises ApiError where the server says no, _Denied where it says nothing."""
    return await _guarded(link, lambda: request(link, subject, body, CALL_SECS))


async def _guarded(link: NatsLink, call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    link.last_error = None
    try:
        return await call()
    except (LinkTimeout, errors.TimeoutError, TimeoutError):
        raise _Denied(_told_aside(link) or "no answer in time") from None
    except (LinkLost, errors.Error) as error:
        raise _Denied(reason_of(error)) from None


def _told_aside(link: NatsLink) -> str:
    """What the server said of a request that it then left unanswered: that is how it refuses."""
    return reason_of(link.last_error) if link.last_error is not None else ""


# Deny entries


async def _bucket(link: NatsLink, bucket: str) -> list[Finding]:
    stream = f"KV_{bucket}"
    try:
        row = await _ask(link, f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code == STREAM_NOT_FOUND:
            fix = "make it: `aigw deny put … --create` with the first entry, or `nats kv add`; or set nats_bucket"
            return [wrong("nats", bucket, "there is no such bucket", why="nobody can be cut off", fix=fix)]
        return [wrong("nats", bucket, "the bucket cannot be looked at", why=str(error), fix=_JETSTREAM_FIX)]
    except _Denied as denied:
        return [_not_allowed(bucket, "the bucket cannot be looked at", denied, f"$JS.API.STREAM.INFO.{stream}")]
    found = [_bucket_state(bucket, row), await _may_watch(link, bucket, stream)]
    return [*found, *await _consumers(link, stream, bucket, is_feed=True)]


def _bucket_state(bucket: str, row: dict[str, Any]) -> Finding:
    state, config = row["state"], row["config"]
    what = f"{state['messages']} entries, last revision {state['last_seq']}"
    limit = config.get("max_bytes", -1)
    if limit > 0 and state["bytes"] > FULL_SHARE_HIGH * limit:
        fix = "enlarge the bucket (`nats stream edit`), or purge markers of old entries"
        return warning("nats", bucket, f"{what}; nearly full", why="a full bucket takes no new deny entry", fix=fix)
    return ok("nats", bucket, what)


async def _may_watch(link: NatsLink, bucket: str, stream: str) -> Finding:
    name = f"aigw-doctor-{secrets.token_hex(8)}"
    subject = f"CONSUMER.CREATE.{stream}.{name}"
    config = {
        "name": name,
        "deliver_policy": "new",
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 5_000_000_000,
    }
    try:
        await _ask(link, subject, {"stream_name": stream, "config": config})
        await _ask(link, f"CONSUMER.DELETE.{stream}.{name}")
    except (ApiError, _Denied) as error:
        needed = f"$JS.API.CONSUMER.CREATE.{stream}.> and $JS.API.CONSUMER.DELETE.{stream}.>"
        return _not_allowed(bucket, "no consumer can be made, so the feed cannot follow", error, needed)
    return ok("nats", bucket, "the feed may follow it")


def _not_allowed(subject: str, what: str, error: Exception, needed: str) -> Finding:
    fix = f"let this user publish to {needed} and subscribe to _INBOX.>"
    return wrong("nats", subject, what, why=str(error), fix=fix)


# Facts


async def _facts(link: NatsLink, subject: str, wanted: str) -> list[Finding]:
    try:
        names = (await _ask(link, "STREAM.NAMES", {"subject": f"{subject}.any"})).get("streams")
        if not names:
            return [ok("nats", wanted, f"no stream takes {subject}.> yet; it is made at the start")]
        row = await _ask(link, f"STREAM.INFO.{names[0]}")
    except ApiError as error:
        return [wrong("nats", wanted, "the stream of facts cannot be looked at", why=str(error), fix=_JETSTREAM_FIX)]
    except _Denied as denied:
        return [_not_allowed(wanted, "the stream of facts cannot be looked at", denied, "$JS.API.STREAM.>")]
    stream = str(names[0])
    found = [_stream_state(stream, row), await _may_publish(link, stream, subject)]
    return [*found, *await _consumers(link, stream, stream, is_feed=False)]


def _stream_state(stream: str, row: dict[str, Any]) -> Finding:
    state, config = row["state"], row["config"]
    problems = stream_problems(config)
    if problems:
        fix = "make another stream for these subjects, with retention limits and discard new; `aigw` makes one itself"
        return wrong("nats", stream, " and ".join(problems), why="facts would be lost", fix=fix)
    what = f"{state['messages']} facts"
    for name, used in (("max_bytes", state["bytes"]), ("max_msgs", state["messages"])):
        limit = config.get(name, -1)
        if limit > 0 and used >= limit * FULL_SHARE_HIGH:
            fix = f"raise {name} of the stream (`nats stream edit {stream}`), or archive and purge what was billed"
            told = f"{what}, {100 * used // limit} % of {name}"
            why = "facts wait in the spool once it is full, and managed requests get 503 once that is"
            return (wrong if used >= limit else warning)("nats", stream, told, why=why, fix=fix)
    return ok("nats", stream, what)


async def _may_publish(link: NatsLink, stream: str, subject: str) -> Finding:
    """By a message that the stream must refuse, since it expects another one."""
    place = f"{subject}.aigw-doctor"
    headers = {"Nats-Expected-Stream": "aigw-doctor"}

    async def publish() -> dict[str, Any]:
        call = link.client.request(place, b"", timeout=CALL_SECS, headers=headers)
        return answer_of((await link.call(call, CALL_SECS + 1.0)).data)

    try:
        await _guarded(link, publish)
    except ApiError as error:
        if error.code == _WRONG_STREAM:
            return ok("nats", stream, f"may publish to {subject}.>")
        return _not_allowed(stream, "facts cannot be published", error, f"{subject}.>")
    except _Denied as denied:
        return _not_allowed(stream, "facts cannot be published", denied, f"{subject}.>")
    return warning("nats", stream, "took a message without facts", fix=f"`nats stream rmm` the last one of {place}")


# Whoever reads


async def _consumers(link: NatsLink, stream: str, subject: str, *, is_feed: bool) -> list[Finding]:
    """How far readers are behind: gateways on the bucket, the billing system on the facts."""
    try:
        rows = (await _ask(link, f"CONSUMER.LIST.{stream}", {})).get("consumers") or []
    except (ApiError, _Denied):
        return [skipped("nats", subject, "this user may not list who reads it")]
    if is_feed:
        feeds = [row for row in rows if str(row["name"]).startswith("aigw-deny-")]
        behind = max((int(row["num_pending"]) for row in feeds), default=0)
        return [ok("nats", subject, f"{len(feeds)} gateways follow it, {behind} entries behind at most")]
    found = []
    for row in rows[:CONSUMERS_SHOWN_MAX]:
        name, behind = str(row["name"]), int(row["num_pending"])
        what = f"the consumer {name} is {behind} facts behind"
        if behind >= LAG_MANY:
            fix = "see whether it runs; nothing is lost meanwhile while the stream has room"
            found.append(warning("nats", subject, what, why="whoever bills does not keep up", fix=fix))
        else:
            found.append(ok("nats", subject, what))
    return found
