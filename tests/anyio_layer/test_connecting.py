from __future__ import annotations

import errno
import logging
import socket
import ssl

import pytest

from aigw_anyio.connecting import REPEAT_SECS, ConnectFailed, FailureLog, describe
from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin

ORIGIN = Origin("https", "api.example", 443)


def _ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] text of the library (_ssl.c:1)")
    error.reason = reason
    return error


def _verification_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed (_ssl.c:1)")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, ""),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 443)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (_ssl_error("WRONG_VERSION_NUMBER"), "wrong version number"),
        (_verification_error(), "certificate has expired"),
        (UnicodeError("label empty or too long"), "UnicodeError"),
    ],
)
def test_a_cause_is_told_in_the_words_of_the_system(error: BaseException | None, words: str) -> None:
    assert describe(error) == words


def _failed(failure: ConnectFailure, cause: BaseException | None = None) -> ConnectFailed:
    error = ConnectFailed(failure)
    error.__cause__ = cause
    return error


def test_a_failure_that_goes_on_is_told_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr("aigw_anyio.connecting.anyio.current_time", lambda: now[0])
    caplog.set_level(logging.WARNING, "aigw.upstream")
    log = FailureLog()
    refused = _failed(ConnectFailure.CONNECT, ConnectionRefusedError(errno.ECONNREFUSED, "x"))
    for _ in range(5):
        log.tell(ORIGIN, refused)
    log.tell(ORIGIN, _failed(ConnectFailure.TLS))
    log.tell(Origin("https", "other.example", 443), refused)
    now[0] += REPEAT_SECS - 0.1
    log.tell(ORIGIN, refused)
    now[0] += 0.1
    log.tell(ORIGIN, refused)
    lines = [vars(record)["fields"] for record in caplog.records]
    assert [(line["host"], line["failed"], line["unsaid"]) for line in lines] == [
        ("api.example", "connect", None),
        ("api.example", "tls", None),
        ("other.example", "connect", None),
        ("api.example", "connect", 5),
    ]
    assert (lines[0]["cause"], lines[0]["port"]) == ("Connection refused", 443)
