"""``aigw deny``: cut tenants and keys off, restore them, and see who is."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

import anyio

from aigw_anyio import logs
from aigw_anyio.deny.control import DenyControl
from aigw_anyio.deny.file import FileProblem, parse_deny_file
from aigw_anyio.deny.filewrite import change_deny_file
from aigw_anyio.deny.sources import make_deny_source, nats_options
from aigw_anyio.settings import Settings, SettingsError, load_settings
from aigw_anyio.settings.model import DenySource
from aigw_core.denyset import KEY_PREFIX, TENANT_PREFIX, DenyScope, DenySet, parse_entry_key
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2
LIST_SECS: Final = 60.0
"""For ``ls`` to read a bucket: patience for a large one, and an end for whoever waits at a terminal."""
TTL_SECS_MAX: Final = 10 * 366 * 86_400
"""Ten years; more is a mistake in the unit."""
POLL_SECS: Final = 0.02
"""Between two looks whether the bucket has been read."""


def add_parsers(deny: argparse.ArgumentParser) -> None:
    commands = deny.add_subparsers(dest="deny_command", required=True, metavar="COMMAND")
    put = commands.add_parser("put", help="cut a tenant or a key off")
    rm = commands.add_parser("rm", help="restore a tenant or a key")
    ls = commands.add_parser("ls", help="list who is cut off, as a gateway would see it")
    for command in (put, rm):
        who = command.add_mutually_exclusive_group(required=True)
        who.add_argument("--tenant", metavar="ID", type=_id, help="all keys of this tenant")
        who.add_argument("--key", metavar="ID", type=_id, help="this one key")
    put.add_argument("reason", choices=("spend", "fraud"), help="spend is answered 402, fraud 403")
    put.add_argument("--ttl", metavar="SECS", type=_ttl, help="restored by itself after so long (NATS 2.11 and later)")
    put.add_argument("--create", action="store_true", help="make the bucket if there is none")
    ls.add_argument("--json", action="store_true", help="one JSON object a line")
    for command in (put, rm, ls):
        command.add_argument("--config", metavar="FILE", type=Path, help="TOML file (default: AI_CONFIG, else none)")


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or parse_entry_key(f"{TENANT_PREFIX}{text}") is None:
        raise ValueError
    return int(text)


def _ttl(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= TTL_SECS_MAX:
        raise ValueError
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """0 where it is done, 2 for a configuration that is refused, 1 otherwise."""
    try:
        settings, _ = load_settings(config=arguments.config, environ=os.environ)
    except SettingsError as error:
        for problem in error.problems:
            logs.say(f"aigw: {logs.escaped(problem)}")
        return EXIT_CONFIGURATION
    source = settings.effective_deny_source
    if source is DenySource.NONE:
        logs.say("aigw: there is no deny source; set nats_url, or deny_source and deny_file")
        return EXIT_CONFIGURATION
    try:
        if arguments.deny_command == "ls":
            return _list(settings, as_json=arguments.json)
        key = f"{TENANT_PREFIX}{arguments.tenant}" if arguments.key is None else f"{KEY_PREFIX}{arguments.key}"
        if source is DenySource.FILE:
            return _change_file(settings, arguments, key)
        return anyio.run(_change_bucket, settings, arguments, key)
    except FileProblem as error:
        logs.say(f"aigw: the deny file is not used: {error}")
    except OSError as error:
        logs.say(f"aigw: the deny file cannot be changed: {error.strerror}")
    return EXIT_FAILED


def _change_file(settings: Settings, arguments: argparse.Namespace, key: str) -> int:
    """Raises FileProblem or OSError."""
    assert settings.deny_file is not None
    if arguments.deny_command == "put" and arguments.ttl is not None:
        logs.say("aigw: --ttl needs NATS; a file keeps what is in it")
        return EXIT_FAILED

    def change(members: dict[str, object]) -> bool:
        if arguments.deny_command == "put":
            members[key] = arguments.reason
            return True
        return members.pop(key, None) is not None

    changed = change_deny_file(Path(settings.deny_file), change)
    logs.say(f"{key}: {'written' if changed else 'was not there'}")
    return EXIT_OK


async def _change_bucket(settings: Settings, arguments: argparse.Namespace, key: str) -> int:
    # Nothing of NATS is loaded where it is not wanted.
    from aigw_anyio.nats import denywrite
    from aigw_anyio.nats.connection import NatsLink
    from aigw_anyio.nats.jetstream import STREAM_NOT_FOUND, ApiError

    bucket = settings.nats_bucket
    revisions: list[int] = []

    async def work(link: NatsLink) -> None:
        if arguments.deny_command == "rm":
            revisions.append(await denywrite.remove(link, bucket, key))
            return
        try:
            revisions.append(await denywrite.put(link, bucket, key, arguments.reason, arguments.ttl))
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND or not arguments.create:
                raise
            await denywrite.create(link, bucket)
            logs.say(f"bucket {bucket}: created")
            revisions.append(await denywrite.put(link, bucket, key, arguments.reason, arguments.ttl))

    try:
        await denywrite.on_bucket(nats_options(settings), work)
    except denywrite.WriteProblem as error:
        logs.say(f"aigw: {key} is not written: {error}")
        return EXIT_FAILED
    logs.say(f"{key}: written as revision {revisions[-1]}")
    return EXIT_OK


def _list(settings: Settings, *, as_json: bool) -> int:
    """Raises FileProblem or OSError."""
    if settings.effective_deny_source is DenySource.FILE:
        assert settings.deny_file is not None
        deny = DenySet()
        entries = parse_deny_file(Path(settings.deny_file).read_bytes())
        deny.replace({key: (value, 1) for key, value in entries.items()}, 1)
        _print(deny, as_json=as_json)
        return EXIT_OK
    found = anyio.run(_read_bucket, settings)
    if found is None:
        logs.say(
            "aigw: the bucket cannot be read; the log of a gateway, or of this command at log_level info, says why"
        )
        return EXIT_FAILED
    _print(found, as_json=as_json)
    return EXIT_OK


async def _read_bucket(settings: Settings) -> DenySet | None:
    """By the gateway's own feed, so that what is listed is what a gateway would refuse."""
    gateway = Gateway(
        settings.build_policy(0),
        entropy=os.urandom(32),
        limiter=Limiter(bytearray(Limiter.buffer_size())),
        now=anyio.current_time(),
        wall=time.time(),
    )
    source = make_deny_source(settings)
    assert source is not None
    control = DenyControl(gateway, source.name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, control)
        with anyio.move_on_after(LIST_SECS):
            while gateway.deny_state != "live":
                if control.read_stats().failures >= 2:
                    break
                await anyio.sleep(POLL_SECS)
        is_live = gateway.deny_state == "live"
        tasks.cancel_scope.cancel()
    return gateway.deny if is_live else None


def _print(deny: DenySet, *, as_json: bool) -> None:
    rows = sorted(deny.entries(), key=lambda row: (row[0].scope is DenyScope.KEY, row[0].id))
    for subject, reason, revision in rows:
        scope = subject.scope.value
        status = reason.status
        if as_json:
            row = {scope: str(subject.id), "reason": reason.value, "status": status, "revision": revision}
            sys.stdout.write(f"{json.dumps(row)}\n")
        else:
            sys.stdout.write(f"{scope} {subject.id} {reason.value} {status}\n")
