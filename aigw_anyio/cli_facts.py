"""``aigw facts``: read and check a spool directory. Needs no gateway, and disturbs none."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from aigw_anyio import logs
from aigw_anyio.names import shown_path
from aigw_anyio.sinks.spool.follow import Follower
from aigw_anyio.sinks.spool.layout import spools
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.spool import Kind, Record, SpoolFormatError

POLL_SECS: Final = 0.2
"""Between two looks of ``tail``: soon enough for people, and next to no work."""
PROBLEMS_SHOWN_MAX: Final = 1_000
"""Lines of ``verify``; the count of all of them follows."""


def add_parsers(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="facts_command", required=True, metavar="COMMAND")
    for name, text in (
        ("verify", "check every record: checksums, gaps, duplicates, open records without an end"),
        ("cat", "print every fact as a JSON line"),
        ("tail", "print facts as they are written, until stopped"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", metavar="DIR", type=Path, help="spool_dir, or one spool below it")
        if name == "tail":
            command.add_argument("--all", action="store_true", help="begin with the facts that are there")


def run(arguments: argparse.Namespace) -> int:
    """0; 1 where something is wrong with what was read."""
    directory: Path = arguments.directory
    try:
        if arguments.facts_command == "verify":
            return _verify(directory)
        if arguments.facts_command == "cat":
            return _cat(directory)
        return _tail(directory, from_start=arguments.all)
    except BrokenPipeError:
        # Whoever reads has enough, as with `| head`.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        logs.say(f"aigw: {logs.escaped(shown_path(error.filename or directory))}: {error.strerror}")
        return 1
    except SpoolFormatError as error:
        logs.say(f"aigw: {error}")
        return 1


def _verify(directory: Path) -> int:
    report = verify(directory)
    for problem in report.problems[:PROBLEMS_SHOWN_MAX]:
        _print(problem)
    counts = f"{report.facts} facts, {report.opens} open records, {report.voids} voids, {report.running} running"
    _print(f"{counts}: {f'{len(report.problems)} problems' if report.problems else 'good'}")
    return 1 if report.problems else 0


def _cat(directory: Path) -> int:
    damaged = False
    for spool in spools(directory):
        follower = Follower(spool)
        while records := follower.read() or follower.read(final=True):
            _write(_facts(records))
        for segment, start, end in follower.damage:
            damaged = True
            logs.say(f"aigw: {spool.name}/{segment:08d}.seg: bytes {start} to {end} cannot be read")
    return 1 if damaged else 0


def _tail(directory: Path, *, from_start: bool) -> int:
    followers: dict[Path, Follower] = {}
    while True:
        for spool in spools(directory):
            if spool not in followers:
                followers[spool] = Follower(spool)
                if not from_start:
                    followers[spool].skip()
        # A spool that appears later is new in whole.
        from_start = True
        for follower in followers.values():
            while records := follower.read():
                _write(_facts(records))
        time.sleep(POLL_SECS)


def _facts(records: Iterable[Record]) -> Iterator[bytes]:
    for record in records:
        if record.kind == Kind.FACT:
            yield record.payload


def _write(facts: Iterable[bytes]) -> None:
    out = sys.stdout.buffer
    for fact in facts:
        out.write(fact + b"\n")
    out.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{logs.escaped(line)}\n")
