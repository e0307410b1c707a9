"""What doctors look at: providers of every kind, and a way to ask."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from aigw_anyio.cli import main
from tests.doctor.models import Models

Doctor = Callable[..., tuple[int, list[dict[str, Any]]]]
"""Environment in, exit code and findings out."""


@pytest.fixture(autouse=True)
def _root_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    def ask(*arguments: str, **environ: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setenv("AI_LISTEN_ADDR", "127.0.0.1:0")
        monkeypatch.setenv("AI_METRICS_LISTEN", "127.0.0.1:0")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(["doctor", "--json", *arguments])
        out = capsys.readouterr()
        assert out.err == ""
        document = json.loads(out.out)
        assert document["exit_code"] == code
        findings: list[dict[str, Any]] = document["findings"]
        for finding in findings:
            if finding["verdict"] == "wrong":
                assert finding["fix"], "whoever reads it must know what to do"
        return code, findings

    return ask


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def models() -> Iterator[Callable[..., Models]]:
    """Makes providers; arguments as of Models."""
    made: list[Models] = []

    def make(*arguments: Any, **options: Any) -> Models:
        made.append(Models(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def _no_names_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of names, localhost and addresses are known; nobody outside is asked for the others."""
    real = socket.getaddrinfo

    def known(host: Any, *rest: Any, **options: Any) -> Any:
        if host == "localhost":
            host = "127.0.0.1"
        elif isinstance(host, str) and not host.replace(".", "").isdigit():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known)


def of(findings: list[dict[str, Any]], check: str, subject: str | None = None) -> dict[str, Any]:
    """The one finding of that check."""
    (found,) = [f for f in findings if f["check"] == check and subject in (None, f["subject"])]
    return found
