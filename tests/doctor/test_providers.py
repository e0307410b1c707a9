"""Providers as a doctor finds them, over real sockets and real TLS."""

from __future__ import annotations

import datetime
import json
import socket
import time
from collections.abc import Callable

import pytest
import trustme

from aigw_anyio.doctor.providers import check_clock, models_path
from aigw_anyio.settings import load_settings
from aigw_core.providers import PROVIDERS
from tests.doctor.conftest import Doctor, of
from tests.doctor.models import KEY, Models

Make = Callable[..., Models]


def authorities(**urls: str) -> dict[str, str]:
    return {"AI_PROVIDER_AUTHORITIES": json.dumps(urls)}


def test_a_good_provider(doctor: Doctor, models: Make, authority: trustme.CA, ca_file: str) -> None:
    one, other = models(authority, "localhost"), models(authority, "localhost")
    code, findings = doctor(
        **authorities(openai=one.url, anthropic=other.url),
        AI_UPSTREAM_CA_FILE=ca_file,
        AI_POOL_KEY_OPENAI=KEY,
        AI_POOL_KEY_ANTHROPIC=KEY,
    )
    assert code == 0
    for name in ("openai", "anthropic"):
        assert [f["check"] for f in findings if f["subject"] == name] == ["dns", "connect", "tls", "credential"]
        assert {f["verdict"] for f in findings if f["subject"] == name} == {"ok"}
    assert of(findings, "clock")["verdict"] == "ok"
    ((path, headers),) = other.requests
    assert (path, headers["x-api-key"], headers["anthropic-version"]) == ("/v1/models", KEY, "2023-06-01")
    assert "Authorization" not in headers
    ((path, headers),) = one.requests
    assert (path, headers["Authorization"]) == ("/v1/models", f"Bearer {KEY}")
    assert headers["Host"] == f"localhost:{one.port}"
    assert KEY not in json.dumps(findings)


def test_only_the_providers_that_are_named_are_asked(doctor: Doctor, models: Make) -> None:
    one, other = models(), models()
    code, findings = doctor("--provider", "openai", **authorities(openai=one.url, groq=other.url))
    assert code == 0
    assert {f["subject"] for f in findings} == {"openai", "wall clock"}
    assert (len(one.requests), len(other.requests)) == (1, 0)
    assert of(findings, "credential")["verdict"] == "skipped"


def test_a_key_that_is_not_known(doctor: Doctor, models: Make, authority: trustme.CA, ca_file: str) -> None:
    one = models(authority, "localhost")
    code, findings = doctor(
        **authorities(openai=one.url), AI_UPSTREAM_CA_FILE=ca_file, AI_POOL_KEY_OPENAI="pool-key-of-yesterday"
    )
    assert code == 1
    found = of(findings, "credential")
    assert (found["verdict"], found["what"]) == ("wrong", "GET /v1/models is answered 401")
    assert "AI_POOL_KEY_OPENAI" in found["fix"]
    assert "yesterday" not in json.dumps(findings)


@pytest.mark.parametrize(
    ("status", "verdict", "word"),
    [(403, "wrong", "may not"), (429, "warning", "limit"), (404, "warning", "no list"), (503, "wrong", "of its own")],
)
def test_other_answers(doctor: Doctor, models: Make, status: int, verdict: str, word: str) -> None:
    code, findings = doctor(**authorities(openai=models(status=status).url), AI_POOL_KEY_OPENAI=KEY)
    found = of(findings, "credential")
    assert (found["verdict"], code) == (verdict, 1 if verdict == "wrong" else 0)
    assert word in found["why"]


def test_a_certificate_for_another_name(doctor: Doctor, models: Make, authority: trustme.CA, ca_file: str) -> None:
    one = models(authority, "elsewhere.test")
    code, findings = doctor(**authorities(openai=one.url), AI_UPSTREAM_CA_FILE=ca_file, AI_POOL_KEY_OPENAI=KEY)
    assert code == 1
    found = of(findings, "tls")
    assert found["verdict"] == "wrong"
    assert "Hostname mismatch" in found["why"]
    assert "provider_authorities.openai" in found["fix"]
    assert one.requests == [], "the key went nowhere"
    assert not [f for f in findings if f["check"] == "credential"]


def test_a_certificate_of_a_stranger(doctor: Doctor, models: Make, ca_file: str) -> None:
    one = models(trustme.CA(), "localhost")
    code, findings = doctor(**authorities(openai=one.url), AI_UPSTREAM_CA_FILE=ca_file)
    found = of(findings, "tls")
    assert (code, found["verdict"]) == (1, "wrong")
    assert "unable to get local issuer certificate" in found["why"]
    assert "upstream_ca_file" in found["fix"]


def test_certificates_that_end(doctor: Doctor, models: Make, authority: trustme.CA, ca_file: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    gone = models(authority, "localhost", not_before=now - 9 * day, not_after=now - day)
    soon = models(authority, "localhost", not_after=now + 3.5 * day)
    code, findings = doctor(**authorities(openai=gone.url, groq=soon.url), AI_UPSTREAM_CA_FILE=ca_file)
    assert code == 1
    found = of(findings, "tls", "openai")
    assert (found["verdict"], found["why"]) == ("wrong", "certificate has expired")
    assert "clock" in found["fix"]
    found = of(findings, "tls", "groq")
    assert (found["verdict"], found["what"]) == ("warning", "the certificate of localhost ends in 3 days")


def test_a_port_that_speaks_no_tls(doctor: Doctor, models: Make, ca_file: str) -> None:
    plain = models().url.replace("http:", "https:")
    code, findings = doctor(**authorities(openai=plain), AI_UPSTREAM_CA_FILE=ca_file)
    found = of(findings, "tls")
    assert (code, found["verdict"]) == (1, "wrong")
    assert "does that host speak TLS" in found["fix"]


def test_a_name_that_is_not_found(doctor: Doctor) -> None:
    code, findings = doctor(**authorities(openai="https://api.openai.invalid"))
    assert code == 1
    found = of(findings, "dns")
    assert (found["verdict"], found["what"]) == ("wrong", "api.openai.invalid is not found")
    assert found["why"] == "Name or service not known"
    assert of(findings, "clock")["verdict"] == "skipped"


def test_nobody_listens(doctor: Doctor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, findings = doctor(**authorities(openai=f"http://127.0.0.1:{taken.getsockname()[1]}"))
    found = of(findings, "connect")
    assert (code, found["verdict"], found["why"]) == (1, "wrong", "Connection refused")


def test_some_addresses_do_not_answer(doctor: Doctor, models: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = models()
    monkeypatch.setattr("aigw_anyio.doctor.providers.look_up", lambda *_: ("127.0.0.9", "127.0.0.1"))
    code, findings = doctor(**authorities(openai=one.url))
    found = of(findings, "connect")
    assert (code, found["verdict"], found["why"]) == (0, "warning", "Connection refused")
    assert "1 of 2 addresses" in found["what"]


def test_no_answer_at_all(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_anyio.doctor.providers.ANSWER_SECS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, findings = doctor(**authorities(openai=f"http://127.0.0.1:{silent.getsockname()[1]}"))
    found = of(findings, "credential")
    assert (code, found["verdict"], found["why"]) == (1, "wrong", "no answer in time")


# The clock


@pytest.mark.parametrize(("ahead", "verdict", "code"), [(0, "ok", 0), (30, "warning", 0), (-400, "wrong", 1)])
def test_the_clock_is_compared_with_that_of_providers(
    doctor: Doctor, models: Make, ahead: float, verdict: str, code: int
) -> None:
    found_code, findings = doctor(**authorities(openai=models(ahead=ahead).url))
    found = of(findings, "clock")
    assert (found["verdict"], found_code) == (verdict, code)
    if ahead:
        seconds = int(found["what"].split(" is ")[1].split(" s ")[0])
        assert abs(seconds - abs(ahead)) <= 2
        assert ("behind" if ahead > 0 else "ahead of") in found["what"]


def test_one_provider_with_a_wrong_clock_is_outvoted() -> None:
    assert check_clock({"a": 0.0, "b": 4_000.0, "c": 0.4}).verdict == "ok"
    assert check_clock({"a": 90.0, "b": 4_000.0, "c": 80.0}).verdict == "wrong"
    assert time.time() > 0


# Where it asks


def test_the_lists_of_models_of_the_built_in_providers() -> None:
    settings, _ = load_settings(config=None, environ={})
    providers = settings.build_policy().providers
    paths = {name: models_path(name, providers[name]) for name in PROVIDERS}
    assert paths == {
        "openai": "/v1/models",
        "anthropic": "/v1/models",
        "openrouter": "/api/v1/key",
        "fireworks": "/inference/v1/models",
        "groq": "/openai/v1/models",
        "deepseek": "/models",
        "together": "/v1/models",
        "cerebras": "/v1/models",
        "mistral": "/v1/models",
        "xai": "/v1/models",
    }
