"""The benchmarks run, in windows too short to mean anything, and give the figures that they promise."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from bench import longest, plot, report, sinks, work
from bench.answers import Answer
from bench.core import make_cases, measure
from bench.load import percentile
from bench.modes import COLUMNS, MODES, Bench, Settings
from bench.proc import cpu_used
from bench.servers import Cores, ProviderProcess
from bench.streams import StreamClient
from bench.targets import Target

ROOT = Path(__file__).resolve().parent.parent
RUN_SECS = 60
"""For a run of every mode on a busy machine."""
VARIANTS = {
    "json": ["c=2", "c=1"],
    "connect": ["c=2"],
    "sse": ["streams=3"],
    "body": ["1 MB up", "1 MB down"],
    "mem": [""],
}


def run_bench(directory: Path, *arguments: str) -> dict[str, Any]:
    """The JSON document of one run."""
    out = directory / "out.json"
    command = [sys.executable, "-m", "bench.run", "--provider-port", "0", "--json", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| target |") == len(arguments[1].split(","))
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def check_shape(document: dict[str, Any], servers: list[str], modes: list[str]) -> None:
    assert document["baseline"] == "aigw"
    assert list(document["modes"]) == modes
    for mode, found in document["modes"].items():
        assert list(found["rounds"]) == [report.label(s, v) for v in VARIANTS[mode] for s in servers]
        for rows in found["rounds"].values():
            assert len(rows) == 1
            assert all(value is None or math.isfinite(value) for value in rows[0].values())
        noise = {"core_percent", "others_percent"}
        shown = {key for entry in found["summary"].values() for key in entry["figures"]}
        expected = {column.key for column in COLUMNS[mode]}
        assert shown == (expected if document["pinned"] else expected - noise)


def test_every_mode_of_load_runs(tmp_path: Path) -> None:
    tiny = "--rounds 1 --seconds 0.1 --concurrency 2,1 --streams 3 --events 4 --body-mb 1 --transfers 1"
    modes = [mode for mode in MODES if mode != "mem"]
    svg = tmp_path / "out.svg"
    document = run_bench(tmp_path, "--mode", ",".join(modes), "--tls", "--svg", str(svg), *tiny.split())
    assert document["bodies_equal"] == {"direct": True, "aigw": True, "aigw-tls": True}
    check_shape(document, ["direct", "aigw", "aigw-tls"], modes)
    check_figures(document["modes"])
    assert svg.read_text() == plot.draw(document)


def test_both_servers_can_be_compared(tmp_path: Path) -> None:
    tiny = "--frontend trio,asyncio --rounds 1 --seconds 0.1 --concurrency 2 --streams 3 --events 4"
    document = run_bench(tmp_path, "--mode", "json,sse", *tiny.split())
    assert document["bodies_equal"] == {"direct": True, "aigw-trio": True, "aigw": True}
    assert document["baseline"] == "aigw-trio"
    for mode, variant in (("json", "c=2"), ("sse", "streams=3")):
        ratio = document["modes"][mode]["summary"][report.label("aigw", variant)]["ratios"]["cpu_us"]
        assert 0 < ratio["median"] < math.inf


def test_a_frontend_that_is_not_there_is_told() -> None:
    command = [sys.executable, "-m", "bench.run", "--frontend", "trio,curio"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECS, check=False)
    assert done.returncode == 2
    assert "frontends are asyncio,trio" in done.stderr.replace(", ", ",")


def test_memory_is_read_of_fresh_processes(tmp_path: Path) -> None:
    tiny = "--rounds 1 --connections 4 --stream-delay-ms 300 --settle 0.05"
    document = run_bench(tmp_path, "--mode", "mem", *tiny.split())
    check_shape(document, ["aigw"], ["mem"])
    row = document["modes"]["mem"]["rounds"]["aigw"][0]
    assert (row["idle_alive"], row["active"]) == (4, 4)
    assert row["base_mb"] > 10


def test_events_come_no_faster_than_the_load_can_read_them() -> None:
    plans: list[dict[str, float]] = []

    class Provider:
        def configure(self, **plan: float) -> None:
            plans.append(plan)

    bench = Bench(cast(ProviderProcess, Provider()), Cores(None, None), Settings(delay_ms=10, events_per_s=20_000))
    for variant in ("streams=100", "streams=200", "streams=1000"):
        bench.prepare("sse", variant)
    bench.prepare("mem", "")
    assert [plan["delay_ms"] for plan in plans] == [10, 10, 50, 2_000]


def check_figures(modes: dict[str, Any]) -> None:
    for mode, key in (("json", "cpu_us"), ("connect", "cpu_us"), ("sse", "cpu_us"), ("body", "cpu_us_per_mb")):
        entry = modes[mode]["summary"][report.label("aigw", VARIANTS[mode][0])]
        assert entry["figures"][key]["median"] > 0
        assert entry["ratios"][key] == {"min": 1.0, "median": 1.0, "max": 1.0}
        assert key not in modes[mode]["summary"][report.label("direct", VARIANTS[mode][0])]["figures"]
    ratio = modes["json"]["summary"]["aigw-tls | c=2"]["ratios"]["cpu_us"]["median"]
    assert ratio > 0, "compared with the baseline, which has no TLS here"
    for label in ("aigw | c=2", "aigw | c=1", "aigw-tls | c=1"):
        row = modes["json"]["rounds"][label][0]
        assert (row["facts_each"], row["errors"]) == (1.0, 0.0)
        assert row["p50_ms"] <= row["p99_ms"]
    for label in ("direct | streams=3", "aigw | streams=3", "aigw-tls | streams=3"):
        row = modes["sse"]["rounds"][label][0]
        assert row["complete_percent"] == 100
        assert row.get("facts_each", 1.0) in (1.0, None)
    assert all(rows[0]["errors"] == 0 for rows in modes["body"]["rounds"].values())


def test_a_target_that_does_not_answer_is_named() -> None:
    command = [sys.executable, "-m", "bench.run", "--provider-port", "0", "--no-aigw"]
    command += ["--target", "x=http://127.0.0.1:9/v2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECS, check=False)
    assert done.returncode == 1
    assert "bench: x does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_case_of_the_core_is_sampled_in_each_round() -> None:
    cases = make_cases()
    results = measure(cases, rounds=2, sample_ms=0.01)
    assert list(results) == [case.name for case in cases]
    for name, rows in results.items():
        assert [set(row) >= {"us", "ratio", "calibration_ms"} for row in rows] == [True, True], name
        assert all((row["us"] or 0) > 0 and (row["ratio"] or 0) > 0 for row in rows), name
    assert "mb_per_s" in results["Meter, JSON of 2 MB base64"][0]
    assert len({case.name for case in cases}) == len(cases) >= 15


# The parts on which figures rest


def test_a_target_is_read_from_its_text() -> None:
    target = Target.parse("go=http://localhost:9202/base/,pid=@/run/go.pid,header=A: b:c,header=D:e,restart=go up")
    assert (target.name, target.url, target.address) == ("go", "http://localhost:9202/base", ("127.0.0.1", 9202))
    assert (target.headers, target.pid, target.restart) == ((("A", "b:c"), ("D", "e")), "@/run/go.pid", "go up")
    request = target.request(b"{}")
    assert request.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\nHost: localhost:9202\r\n")
    assert request.endswith(b"\r\nA: b:c\r\nD: e\r\nContent-Length: 2\r\n\r\n{}")
    assert Target.parse("n=http://127.0.0.1:1").headers == (("Authorization", "Bearer sk-test"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go",
        "go=",
        "=http://127.0.0.1:1",
        "go=http://127.0.0.1:1,pid=",
        "go=http://127.0.0.1:1,what=1",
        "go=https://127.0.0.1:1",
        "go=http://192.0.2.1:80",
        "go=http://example.com",
    ],
)
def test_a_target_is_a_server_of_this_machine(text: str) -> None:
    with pytest.raises(ValueError, match=r"target|address"):
        Target.parse(text)


HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n"


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (HEAD + b"content-length: 7\r\n\r\n0\r\n\r\nab", b"0\r\n\r\nab"),
        (HEAD + b"Content-Length:0\r\n\r\n", b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    ],
)
def test_the_end_of_an_answer_does_not_depend_on_reads(response: bytes, body: bytes) -> None:
    for size in range(1, len(response) + 1):
        answer = Answer(keep=True)
        pieces = [response[at : at + size] for at in range(0, len(response), size)]
        assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert (answer.status, answer.body, answer.close) == (200, body, False)


STREAM_HEAD = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 100])
def test_events_are_found_in_any_reads_and_chunks(chunk_size: int | None) -> None:
    pieces = [*(work.event(n, 1_000 + n) for n in range(3)), work.STREAM_END]
    if chunk_size is not None:
        whole = b"".join(pieces)
        pieces = [whole[at : at + chunk_size] for at in range(0, len(whole), chunk_size)]
    stream = STREAM_HEAD + b"".join(map(work.chunked, pieces)) + work.LAST_CHUNK
    for size in (1, 7, 100, len(stream)):
        with socket.socket() as sock:
            client = StreamClient(sock)
            latencies: list[int] = []
            for at in range(0, len(stream), size):
                assert not client.ended or at > len(stream) - len(work.LAST_CHUNK)
                client.feed(stream[at : at + size], 5_000, latencies)
            assert (client.events, client.in_order, client.ended) == (3, True, True)
            assert latencies == [4_000, 3_999, 3_998]


def test_a_lost_event_shows() -> None:
    with socket.socket() as sock:
        client = StreamClient(sock)
        client.feed(STREAM_HEAD + work.chunked(work.event(0, 1) + work.event(2, 1)), 5, [])
        assert (client.events, client.in_order) == (2, False)


def test_an_error_is_no_stream() -> None:
    with socket.socket() as sock:
        client = StreamClient(sock)
        client.feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 14\r\n\r\nno good [DONE]", 5, [])
        assert (client.events, client.ended) == (0, False)


def test_work_has_the_sizes_that_the_tables_name() -> None:
    assert (len(work.chat_answer()), len(work.event(7, 1_763_900_000_123_456_789))) == (593, 230)
    assert len(work.chat_answer(2_000_000)) == 2_000_000
    assert 1_400 <= len(work.chat_request()) <= 1_600
    assert len(work.chat_request(padding=10_000)) - len(work.chat_request()) in range(10_000, 10_100)
    for body in (work.chat_answer(), work.chat_request(stream=True), work.event(1, 1)[6:]):
        assert json.loads(body)["model"].startswith(work.MODEL)


def test_ratios_are_taken_within_a_round() -> None:
    columns = [report.Column("CPU", "cpu", compared=True), report.Column("p50", "p50")]
    results: dict[str, list[report.Row]] = {
        "go | c=1": [{"cpu": 10.0}, {"cpu": 40.0}, {"cpu": 20.0}],
        "aigw | c=1": [{"cpu": 5.0, "p50": None}, {"cpu": 10.0}, {"cpu": 30.0}],
        "aigw | c=2": [{"cpu": 7.0}],
    }
    summary = report.summarise(results, columns, baseline="go")
    assert summary["aigw | c=1"] == {
        "rounds": 3,
        "figures": {"cpu": {"min": 5.0, "median": 10.0, "max": 30.0}},
        "ratios": {"cpu": {"min": 0.25, "median": 0.5, "max": 1.5}},
    }
    assert summary["aigw | c=2"]["ratios"] == {}
    assert report.table(summary, columns, baseline="go").splitlines() == [
        "| target | CPU | / go |",
        "|---|---|---|",
        "| go, c=1 | 10.0 / **20.0** / 40.0 | 1.00 |",
        "| aigw, c=1 | 5.0 / **10.0** / 30.0 | 0.25 / **0.50** / 1.50 |",
        "| aigw, c=2 | 7.0 | - |",
    ]


def test_what_speaks_tls_is_compared_with_what_does() -> None:
    columns = [report.Column("CPU", "cpu", compared=True)]
    results: dict[str, list[report.Row]] = {
        "go | c=1": [{"cpu": 10.0}],
        "go-tls | c=1": [{"cpu": 40.0}],
        "aigw-tls | c=1": [{"cpu": 20.0}],
        "go | c=2": [{"cpu": 10.0}],
        "aigw-tls | c=2": [{"cpu": 20.0}],
    }
    summary = report.summarise(results, columns, baseline="go")
    medians = {name: entry["ratios"]["cpu"]["median"] for name, entry in summary.items()}
    assert medians == {"go | c=1": 1, "go-tls | c=1": 1, "aigw-tls | c=1": 0.5, "go | c=2": 1, "aigw-tls | c=2": 2}


def test_files_have_a_line_for_each_row() -> None:
    document = {"a": {"b": [{"x": 1.23456789, "y": None}, {"x": 2.0}], "c": (1, 2)}, "d": "e"}
    text = report.as_json(document)
    assert json.loads(text) == {"a": {"b": [{"x": 1.2346, "y": None}, {"x": 2.0}], "c": [1, 2]}, "d": "e"}
    assert '   {"x": 1.2346, "y": null},\n   {"x": 2.0}\n' in text
    assert report.as_json([]) == "[]"


def test_processor_time_is_that_of_live_threads() -> None:
    assert cpu_used({1: 5_000_000_000, 2: 1}, {1: 7_000_000_000, 3: 500_000_000}) == 2.5


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = list(range(100, 0, -1))
    assert (percentile(values, 0.5, 1), percentile(values, 0.99, 1), percentile(values, 1.0, 10)) == (51, 100, 10)
    assert percentile([], 0.5, 1) is None


def test_every_sink_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert sinks.main(["--rounds", "2", "--exchanges", "40", "--directory", str(tmp_path), "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    expected = [
        report.label(name, f"c={c}")
        for name in (sinks.BASELINE, "stdout to a file", "spool")
        for c in sinks.CONCURRENCY
    ]
    assert list(document["rounds"]) == expected
    assert {len(rows) for rows in document["rounds"].values()} == {2}
    assert all(math.isfinite(row["more_us"]) for rows in document["rounds"].values() for row in rows)


def test_the_deny_feed_gives_its_figures() -> None:
    command = [sys.executable, "-m", "bench.deny", "--latency", "3", "--seed", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECS, check=False)
    assert done.returncode == 0, done.stderr
    latency, seed = (json.loads(line) for line in done.stdout.splitlines())
    assert 0 < latency["latency"]["put_median_ms"] <= latency["latency"]["put_max_ms"]
    assert seed["seed"]["entries"] == 50


def test_the_longest_calls_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longest, "BODY_SIZE", 100_000)
    assert longest.main(["--json", "--only", "arrays"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.pop("body") for row in rows] == [
        "request, narrow arrays",
        "answer, narrow arrays",
        "events of narrow arrays, 1 MB each",
    ]
    for row in rows:
        assert row["longest_ms"] >= max(row["first_ms"], row["settled_ms"]) > 0
        assert row["mb_per_sec"] > 0


def test_bodies_of_the_longest_calls_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longest, "BODY_SIZE", 20_000)
    for name, (make, body) in longest.shapes().items():
        if make is longest.stream:
            assert body.endswith(b"\n\n"), name
        else:
            assert isinstance(json.loads(body), dict), name
