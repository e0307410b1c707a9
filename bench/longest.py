"""The longest call of the Meter and of the request scanner: ``python -m bench.longest``.

What one call takes, all other connections wait. Bodies that were made to be slow are fed as the servers read them
(``aigw_anyio.readsize``), and each call is timed: CPU milliseconds of the first call, of the longest one, and of the
longest one once the read size has settled; the size it settles at; and megabytes a second over all.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Final

from aigw_anyio.readsize import READ_MAX, READ_MIN, next_read_size
from aigw_core.usage.meter import Meter
from aigw_core.usage.profile import usage_profile
from aigw_core.usage.scanner import RootScanner
from aigw_core.wires import Wire
from bench import work

BODY_SIZE: Final = 2 * 1024 * 1024
SETTLED_AFTER: Final = 4
"""Reads, after which the size has had time to settle."""

Feed = Callable[[bytes], object]


def scanner() -> Feed:
    """As a request body is scanned."""
    return RootScanner(frozenset({"model", "stream", "stream_options"})).feed


def document() -> Feed:
    return _meter(b"application/json")


def stream() -> Feed:
    return _meter(b"text/event-stream")


def _meter(content_type: bytes) -> Feed:
    meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"), strip_usage_event=True)
    meter.response_head(200, content_type, b"")
    return meter.feed


def _filled(unit: str) -> bytes:
    """A root object with one array of so many units."""
    return ('{"a":[' + ",".join([unit] * (BODY_SIZE // (len(unit) + 1))) + "]}").encode()


def _events(data: bytes, size: int = 0) -> bytes:
    event = b"data: " + data + b"\n\n"
    return event * max(1, (size or BODY_SIZE) // len(event))


def _turning(costly: bytes) -> bytes:
    """Cheap at first, so that reads have grown when it begins to cost."""
    return b'{"pad":"' + b"QUJD" * 100_000 + b'",' + costly[1:500_000].rpartition(b",")[0] + b"}"


def shapes() -> dict[str, tuple[Callable[[], Feed], bytes]]:
    """Name to how it is read, and the body."""
    narrow = "[[[[[[1]]]]]]"
    stair = "[1,[2,[3,[4,[5,[6,[7,[8]]]]]]]]"
    members = ('{"m":1,' + ",".join(['"k":{"a":{"b":{"c":[1]}}}'] * (BODY_SIZE // 26)) + "}").encode()
    dense = work.chat_answer(1_000_000, logprobs=work.dense_logprobs(2_600))
    embeddings = _filled('{"embedding":[' + ",".join(["-0.012345678"] * 64) + "]}")
    escapes = ('{"a":"' + '\\n\\u00e9"'.replace('"', "") * (BODY_SIZE // 8) + '"}').encode()
    return {
        "request, narrow arrays": (scanner, _filled(narrow)),
        "request, stairs": (scanner, _filled(stair)),
        "request, deep members": (scanner, members),
        "request, base64": (scanner, work.chat_request(padding=BODY_SIZE)),
        "answer, narrow arrays": (document, _filled(narrow)),
        "answer, deep members": (document, members),
        "request, base64, then deep members": (scanner, _turning(members)),
        "answer, base64, then deep members": (document, _turning(members)),
        "answer, NaN": (document, _filled("NaN")),
        "answer, dense logprobs": (document, dense),
        "answer, embeddings": (document, embeddings),
        "answer, escapes": (document, escapes),
        "answer, base64": (document, work.chat_answer(BODY_SIZE)),
        "events of dense logprobs, 0.9 MB each": (stream, _events(dense)),
        "events of narrow arrays, 1 MB each": (stream, _events(_filled(narrow)[:1_000_000] + b"1]}")),
        "events of 7 bytes": (stream, _events(b"1")),
        "events of an empty object": (stream, _events(b"{}")),
        "events of a usual size": (stream, _events(b'{"choices":[{"index":0,"delta":{"content":"word"}}]}')),
    }


def measure(make: Callable[[], Feed], body: bytes) -> dict[str, float]:
    """The best of three runs, figure by figure: what the calls cost, not what the machine does beside them."""
    runs = [_run(make(), body) for _ in range(3)]
    return {name: min(run[name] for run in runs) for name in runs[0]}


def _run(feed: Feed, body: bytes) -> dict[str, float]:
    size, at = READ_MAX, 0
    calls: list[float] = []
    while at < len(body):
        piece = body[at : at + size]
        began = time.process_time()
        feed(piece)
        secs = time.process_time() - began
        calls.append(secs)
        at += len(piece)
        if len(piece) >= READ_MIN:
            size = next_read_size(size, len(piece), secs)
    settled = calls[SETTLED_AFTER:] or calls[-1:]
    return {
        "first_ms": round(calls[0] * 1000, 2),
        "longest_ms": round(max(calls) * 1000, 2),
        "settled_ms": round(max(settled) * 1000, 2),
        "read_size": size,
        "mb_per_sec": round(len(body) / sum(calls) / 1e6, 1) if sum(calls) else 0.0,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.longest", description="The longest call, body by body.")
    parser.add_argument("--only", default="", metavar="TEXT", help="bodies whose name contains it")
    parser.add_argument("--json", action="store_true", help="one JSON line each")
    arguments = parser.parse_args(argv)
    gc.freeze()
    if not arguments.json:
        sys.stdout.write(f"{'':40}{'first ms':>10}{'longest':>10}{'settled':>10}{'read size':>11}{'MB/s':>9}\n")
    for name, (make, body) in shapes().items():
        if arguments.only not in name:
            continue
        found = measure(make, body)
        if arguments.json:
            sys.stdout.write(json.dumps({"body": name, **found}) + "\n")
        else:
            columns = (found["first_ms"], found["longest_ms"], found["settled_ms"])
            shown = "".join(f"{value:>10.2f}" for value in columns)
            sys.stdout.write(f"{name:40}{shown}{found['read_size']:>11,.0f}{found['mb_per_sec']:>9,.1f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
