from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_anyio import logs
from aigw_anyio.settings import LogFormat, LogLevel

log = logging.getLogger("aigw.test")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read(fd: int) -> str:
    return os.read(fd, 1_000_000).decode("ascii")


def test_json_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    log.info("hello %s", "wörld\n\x1b[31m", extra={"fields": {"status": 502, "detail": "a\r\nb", "time": "x"}})
    log.debug("not heard")
    logging.getLogger("other").info("not heard either")
    logging.getLogger("other").warning("heard")
    lines = read(reader).splitlines()
    assert len(lines) == 2
    row = json.loads(lines[0])
    assert list(row) == ["time", "level", "logger", "message", "status", "detail"]
    assert row["message"] == "hello wörld\n\x1b[31m"
    assert (row["level"], row["logger"], row["status"], row["detail"]) == ("info", "aigw.test", 502, "a\r\nb")
    assert len(row["time"]) == len("2026-01-31T09:05:00.042Z")
    assert json.loads(lines[1])["logger"] == "other"


def test_a_record_that_says_it_has_no_exception(pipe: tuple[int, int]) -> None:
    """As asyncio's records of what went wrong outside of any task."""
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    log.error("no exception", exc_info=False)
    record = logging.LogRecord("aigw.test", logging.ERROR, "", 0, "none either", None, False)  # type: ignore[arg-type]  # as asyncio passes it on
    log.handle(record)
    for line in read(reader).splitlines():
        assert "traceback" not in json.loads(line)


def test_console_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.CONSOLE, LogLevel.DEBUG, writer)
    log.debug("hello\nthere \x1b[31m\u202e", extra={"fields": {"detail": "a\rb", "none": None}})
    line = read(reader)
    assert line[8:] == " debug   hello\\nthere \\x1b[31m\\u202e detail=a\\rb\n"


def test_auto_is_json_on_a_pipe(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.AUTO, LogLevel.INFO, writer)
    log.info("x")
    assert json.loads(read(reader))["message"] == "x"


def test_auto_is_console_on_a_terminal() -> None:
    parent, child = os.openpty()
    logs.configure(LogFormat.AUTO, LogLevel.INFO, child)
    log.info("x")
    assert os.read(parent, 100).endswith(b" info    x\r\n")
    os.close(parent)
    os.close(child)


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_what_looks_like_a_key_is_not_written(pipe: tuple[int, int], log_format: LogFormat) -> None:
    reader, writer = pipe
    logs.configure(log_format, LogLevel.INFO, writer)
    key = "bai_v1.1.AQAAAAAAAAABAAAAAAAAAA.TAINTED_x-y"
    header = f"Authorization: Bearer TAINTED {key}"
    try:
        raise ValueError(header)
    except ValueError:
        log.exception("got %s and sk-proj-TAINTED0123456789", key, extra={"fields": {"header": f"x {key}"}})
    text = read(reader)
    assert "TAINTED" not in text
    assert text.count("(redacted)") == 5
    assert "test_logs.py" in text


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_traceback(pipe: tuple[int, int], log_format: LogFormat) -> None:
    reader, writer = pipe
    logs.configure(log_format, LogLevel.INFO, writer)
    try:
        raise ValueError("boom\x07")
    except ValueError:
        log.exception("failed")
    text = read(reader)
    assert "boom\x07" not in text
    if log_format is LogFormat.JSON:
        assert json.loads(text)["traceback"].endswith("ValueError: boom\x07")
    else:
        assert text.splitlines()[-1] == "    ValueError: boom\\x07"


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    escaped = logs.escaped(text)
    assert escaped.isprintable()
    if text.isprintable():
        assert escaped == text


def test_long_records_are_cut(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    log.info("a" * logs.LINE_MAX)
    log.info("b" * (logs.LINE_MAX + 1))
    first, second = (json.loads(line)["message"] for line in read(reader).splitlines())
    assert first == "a" * logs.LINE_MAX
    assert second == "b" * logs.LINE_MAX + "…"


def test_blocked_reader_drops_whole_lines_and_counts_them(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    for number in range(2_000):
        log.info("%s", f"{number} " + "x" * 100)
    data = read(reader)
    log.info("after")
    lines = (data + read(reader)).splitlines()
    kept = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    assert len(lines) - len(kept) <= 1
    assert kept[-1]["message"] == "after"
    assert kept[-2]["dropped"] == 2_000 - (len(kept) - 2)


def test_wrong_format_argument_does_not_raise(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    log.info("%d", "x")
    log.info("next")
    assert json.loads(read(reader))["message"] == "next"


def test_configuring_again_replaces_the_handler(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    for _ in range(2):
        logs.configure(LogFormat.JSON, LogLevel.INFO, writer)
    log.info("once")
    assert len(read(reader).splitlines()) == 1


def test_the_access_log_is_heard_at_every_level(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure(LogFormat.JSON, LogLevel.ERROR, writer)
    log.warning("not heard")
    logging.getLogger("aigw.access").info("complete")
    assert [json.loads(line)["message"] for line in read(reader).splitlines()] == ["complete"]


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    logs.say("listening data=a:1 admin=b:2")
    assert capsys.readouterr() == ("", "listening data=a:1 admin=b:2\n")
