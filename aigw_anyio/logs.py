"""Logs to standard error: JSON lines, or readable text on a terminal.

``log_format`` is ``auto`` (text on a terminal, JSON elsewhere), ``json`` or ``console``; ``log_level`` the
least severe record that is written. A record may carry ``extra={"fields": {…}}``, whose members stand
beside the message. Facts never pass through here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Final

from aigw_anyio.fdwrite import FdWriter
from aigw_anyio.settings.model import LogFormat, LogLevel
from aigw_core.clock import rfc3339

LINE_MAX: Final = 16_384
"""Characters of one record. A longer one is cut: logs are for reading."""

_SECRET: Final = re.compile(
    r"bai_v[A-Za-z0-9._-]+|\b(?:sk|gsk|xai|csk|fw|fpk|tgp)[-_][A-Za-z0-9_-]{12,}|(?<=Bearer )[^\s\"']+",
)
_REDACTED: Final = "(redacted)"
_common: Final[dict[str, object]] = {}


class _Formatter(logging.Formatter):
    """One record to one line, without control characters, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        members = {**_common, **fields} if isinstance(fields, Mapping) else {**_common}
        message = record.getMessage()
        # asyncio says False where there is none.
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return self.line(record, _cut(_redacted(message)), members)

    def line(self, record: logging.LogRecord, message: str, members: Mapping[str, object]) -> str:
        raise NotImplementedError


class JsonFormatter(_Formatter):
    """``{"time", "level", "logger", "message", …fields}``; no field replaces one of the four."""

    def line(self, record: logging.LogRecord, message: str, members: Mapping[str, object]) -> str:
        row = {
            **{name: _plain(value) for name, value in members.items()},
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        order = ("time", "level", "logger", "message")
        return json.dumps({name: row[name] for name in (*order, *(n for n in row if n not in order))})


class ConsoleFormatter(_Formatter):
    """``12:34:56 warning message name=value``; a traceback follows on lines of its own."""

    def line(self, record: logging.LogRecord, message: str, members: Mapping[str, object]) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = "".join(
            f" {name}={escaped(str(_plain(value)))}"
            for name, value in members.items()
            if name != "traceback" and value is not None
        )
        text = f"{clock} {record.levelname.lower():7} {escaped(message)}{shown}"
        traceback = members.get("traceback")
        if isinstance(traceback, str):
            text += "".join(f"\n    {escaped(line)}" for line in _redacted(traceback).splitlines())
        return text


class StderrHandler(logging.Handler):
    """Writes whole lines as they fit; what a blocked reader does not take is dropped and counted.

    The event loop writes logs itself, so waiting for the reader would stall every connection.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._writer = FdWriter(fd)
        self._dropped = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{self.format(self._dropped_note())}\n" if self._dropped else ""
            text += self.format(record)
        except Exception:  # noqa: BLE001  # a wrong format argument must not end the exchange that logs
            self.handleError(record)
            return
        line = text.encode("ascii", "backslashreplace") + b"\n"
        try:
            written = self._writer.write(b"\n" + line if self._is_torn else line)
        except OSError:
            # Nobody reads the log, and there is nowhere else to say so.
            written = 0
        if written >= len(line):
            self._dropped = 0
            self._is_torn = False
        else:
            self._dropped += 1
            self._is_torn = self._is_torn or written > 0

    def _dropped_note(self) -> logging.LogRecord:
        return logging.makeLogRecord(
            {
                "name": "aigw.logs",
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "log lines were dropped, since nobody read them in time",
                "fields": {"dropped": self._dropped},
            }
        )


def configure(log_format: LogFormat, log_level: LogLevel, fd: int = 2) -> None:
    """Sends all logging of the process to ``fd``; replaces what an earlier call set up.

    Loggers outside ``aigw`` are heard from ``warning`` on.
    """
    handler = StderrHandler(fd)
    handler.setFormatter(JsonFormatter() if _is_json(log_format, fd) else ConsoleFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, StderrHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("aigw").setLevel(log_level.value.upper())
    # Who has the access log switched on wants it at every level.
    logging.getLogger("aigw.access").setLevel(logging.INFO)


def label(**fields: object) -> None:
    """From now on every line has these fields too: which of several processes writes it."""
    _common.update(fields)


def silence() -> None:
    """For commands whose output says it all: nothing is logged."""
    root = logging.getLogger()
    root.handlers[:] = [logging.NullHandler()]
    root.setLevel(logging.CRITICAL)


def say(line: str) -> None:
    """One line of plain text on standard error, in whatever format the log is."""
    # Python has no stderr object where the descriptor was closed at start.
    if sys.stderr is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def escaped(text: str) -> str:
    """The text with everything unprintable, line ends and terminal codes included, as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_json(log_format: LogFormat, fd: int) -> bool:
    if log_format is LogFormat.AUTO:
        return not os.isatty(fd)
    return log_format is LogFormat.JSON


def _redacted(text: str) -> str:
    """A last line of defence: nothing that looks like a key is meant to come here."""
    return _SECRET.sub(_REDACTED, text)


def _cut(text: str) -> str:
    return text if len(text) <= LINE_MAX else f"{text[:LINE_MAX]}…"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cut(_redacted(str(value)))
