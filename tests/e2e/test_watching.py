"""What an operator sees of the real process: metrics after traffic of every kind, and lines of the log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aigw_anyio.metrics.families import FAMILIES
from tests import promql
from tests.e2e import answers, keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, STREAMED, ask, call
from tests.e2e.client import Client, bearer, request
from tests.e2e.conftest import BACKENDS
from tests.e2e.fleet import environment
from tests.e2e.gateway import ROOT, Gateway, wait_until
from tests.e2e.provider import Provider
from tests.e2e.watched import Watched

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()


@pytest.fixture(scope="module", params=BACKENDS)
def watched(
    request: pytest.FixtureRequest, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    watched = Watched(str(request.param), provider, tmp_path_factory.mktemp("watched"))
    watched.serve_everything()
    yield watched
    watched.close()


# Metrics


def test_every_metric_of_the_table_is_there_with_its_labels(watched: Watched) -> None:
    exposed = {name: metric for name, metric in watched.families().items() if name.startswith("aigw_")}
    assert sorted(exposed) == sorted(FAMILIES)
    for name, metric in exposed.items():
        assert metric.type == FAMILIES[name].kind.value
        labels = {frozenset(sample.labels) - {"le"} for sample in metric.samples}
        assert labels <= {frozenset(FAMILIES[name].labels)}
        assert labels, f"{name} was never counted"


def test_the_numbers_are_those_of_the_traffic(watched: Watched) -> None:
    def total(name: str, **labels: str) -> float:
        metric = watched.families()[name]
        return sum(
            sample.value
            for sample in metric.samples
            if labels.items() <= sample.labels.items() and not sample.name.endswith(("_bucket", "_sum"))
        )

    requests = "aigw_requests_total"
    assert total(requests, caller="byo", status_class="2xx", outcome="complete") == 4
    assert total(requests, caller="byo", wire="opaque", status_class="4xx", outcome="upstream_error") == 1
    assert total(requests, provider="anthropic", caller="managed", outcome="complete") == 2
    assert total(requests, caller="managed", status_class="5xx", outcome="upstream_error") == 4
    assert total(requests, provider="silent", status_class="5xx", outcome="timeout") == 1
    assert total(requests, status_class="4xx", outcome="refused") == 1
    assert total(requests, outcome="client_abort") == 1
    for name in ("aigw_request_duration_seconds", "aigw_usage_total"):
        assert total(name, provider="anthropic", wire="messages") == (2 if name == "aigw_usage_total" else 4)
    assert total("aigw_request_duration_seconds") == total(requests)
    assert total("aigw_usage_total") == total(requests, caller="managed") == total("aigw_facts_written_total")
    for reason, count in (("bad_key", 1), ("body_rule", 1), ("upstream_failed", 3), ("upstream_timeout", 1)):
        assert total("aigw_rejections_total", reason=reason) == count
    assert total("aigw_rate_limited_total", limit="key") == total("aigw_rejections_total", reason="rate_limited") > 0
    # Another address may help against a refused connection: it is tried again twice.
    failures = "aigw_upstream_connect_failures_total"
    expected = {("refusing", "connect"): 3, ("nowhere", "dns"): 1, ("untrusted", "tls"): 1, ("silent", "timeout"): 1}
    assert {key: total(failures, provider=key[0], reason=key[1]) for key in expected} == expected
    assert total(failures) == sum(expected.values())
    assert total("aigw_upstream_retries_total", provider="refusing") == 2
    assert total("aigw_upstream_connects_total", provider="openai") >= 1
    assert total("aigw_upstream_idle_connections", provider="openai") >= 1
    assert total("aigw_meter_flags_total", flag="tokens_inconsistent") == 1
    assert total("aigw_usage_total", usage_status="absent") >= 1
    assert total("aigw_streams") == total("aigw_exchanges") == 0
    assert total("aigw_facts_connected") == total("aigw_deny_connected") == 1
    wait_until(lambda: total("aigw_spool_unpublished_records") == 0, "all facts are in the stream")
    assert total("aigw_facts_publish_lag_seconds") == 0


def test_no_label_tells_of_a_caller(watched: Watched) -> None:
    values = {
        value
        for metric in watched.families().values()
        for sample in metric.samples
        for name, value in sample.labels.items()
        if name != "le"
    }
    assert str(keys.TENANT) not in values
    assert not [value for value in values if "gpt" in value or value.startswith(("bai_", "/"))]


# Dashboard and alerts read what is there

DEPLOY = ROOT / "deploy"
OF_PROMETHEUS = {"up": {"job", "instance"}}
OF_THE_SCRAPE = {"job", "instance"}
"""Labels that Prometheus adds to every series."""


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "aigw.json").read_text())
    return found


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def missing(watched: Watched, expression: str) -> list[str]:
    """What an expression reads that this gateway does not expose: a metric, a label, or a value that is looked for."""
    series: dict[str, list[dict[str, str]]] = {}
    for metric in watched.families().values():
        for sample in metric.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    found = []
    for selector in promql.selectors(expression):
        if selector.name in OF_PROMETHEUS:
            labels = OF_PROMETHEUS[selector.name]
        elif selector.name in series:
            labels = {*OF_THE_SCRAPE, *(name for one in series[selector.name] for name in one)}
        else:
            found.append(f"no metric {selector.name}")
            continue
        found += [f"{selector.name} has no label {label}" for label in selector.labels - labels]
        for label, operator, value in selector.matched:
            if label in OF_THE_SCRAPE or value == "x" or label not in labels:
                continue
            values = {one[label] for one in series[selector.name]}
            # Each alternative by itself: a word that is never exposed is a mistake.
            words = value.split("|") if operator in ("=~", "!~") else [value]
            found += [f"{selector.name}: no {label} {word}" for word in words if word not in values | RARE]
    return found


RARE = {"unparsed", "none", "partial", "complete"}
"""Values that the traffic of these tests need not bring about; they are words of the fact's reference."""


def test_the_alerts_read_what_is_exposed(watched: Watched) -> None:
    rules = alert_rules()
    assert len(rules) >= 20
    assert {rule["alert"]: lacks for rule in rules if (lacks := missing(watched, rule["expr"]))} == {}


def test_the_dashboard_reads_what_is_exposed(watched: Watched) -> None:
    expressions = dashboard_expressions()
    assert len(expressions) >= 40
    assert {one: lacks for one in expressions if (lacks := missing(watched, promql.of_grafana(one)))} == {}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert missing(watched, f"sum by ({found[2]}) ({found[1]})") == []


@pytest.mark.parametrize(
    ("expression", "lack"),
    [
        ("rate(aigw_request_total[5m])", "no metric aigw_request_total"),
        ("sum by (tenant) (aigw_requests_total)", "aigw_requests_total has no label tenant"),
        ("aigw_exchanges / on (provider) aigw_streams", "aigw_streams has no label provider"),
        ('aigw_rejections_total{reason="denid"}', "aigw_rejections_total: no reason denid"),
        ('aigw_rejections_total{reason=~"denied|denid"}', "aigw_rejections_total: no reason denid"),
        ("aigw_request_duration_seconds", "no metric aigw_request_duration_seconds"),
    ],
)
def test_a_wrong_expression_is_noticed(watched: Watched, expression: str, lack: str) -> None:
    assert lack in missing(watched, expression)


def test_alerts_say_what_to_do() -> None:
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["alert"].startswith("Aigw")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert sorted(rule["annotations"]) == ["action", "summary"]
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        kept = {label for selector in promql.selectors(rule["expr"]) for label in selector.labels}
        assert used <= {*kept, "instance", "limit"}, "a label that the result does not have"


def test_the_dashboard_is_in_order() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells


# Trace context


def line_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.wait_log(f'"request_id": "{request_id}"'))
    return found


@pytest.mark.parametrize("byo", [False, True])
def test_trace_context_passes_byte_by_byte(gateway: Gateway, provider: Provider, byo: bool) -> None:
    case = provider.case(answers.by_path)
    credential = bearer(keys.BYO_KEY if byo else keys.virtual_key())
    fields = (
        (b"TraceParent", TRACEPARENT),
        (b"tracestate", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (b"Tracestate", b"a@b= \tx"),
        (b"baggage", b"userId=alice"),
    )
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, credential, JSON_TYPE, case.header, *fields))
        assert client.read_answer().status == 200
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    assert lines.removesuffix(b"\r\n") in case.wait().head, "in order, in their own case, nothing in between"


@pytest.mark.parametrize("byo", [False, True])
def test_the_trace_id_of_a_failed_exchange_is_in_its_line(gateway: Gateway, provider: Provider, byo: bool) -> None:
    case = provider.case(answers.json_answer({"error": {"message": "no"}}, "500 Internal Server Error"))
    credential = bearer(keys.BYO_KEY if byo else keys.virtual_key())
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, credential, JSON_TYPE, case.header, (b"traceparent", TRACEPARENT)))
        answer = client.read_answer()
    line = line_of(gateway, answer.request_id)
    assert (line["message"], line["trace_id"], line["caller"]) == (
        "upstream_error",
        TRACE,
        "byo" if byo else "managed",
    )


def test_the_trace_id_of_a_refused_request_is_in_its_line(gateway: Gateway) -> None:
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, bearer(keys.forged_key()), JSON_TYPE, (b"traceparent", TRACEPARENT)))
        line = line_of(gateway, client.read_answer().request_id)
    assert (line["message"], line["status"], line["trace_id"]) == ("bad_key", 401, TRACE)


@pytest.mark.parametrize(
    "value", [b"TAINTtrace", TRACEPARENT + b"-x", TRACEPARENT.upper(), TRACEPARENT.replace(b"4b", b"\x5cn")]
)
def test_what_is_no_trace_id_is_not_logged(gateway: Gateway, value: bytes) -> None:
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, bearer(keys.forged_key()), JSON_TYPE, (b"traceparent", value)))
        line = line_of(gateway, client.read_answer().request_id)
    assert line["trace_id"] is None
    assert value.decode() not in json.dumps(line)


# The log


def test_a_failed_exchange_has_one_line_with_its_timing(gateway: Gateway) -> None:
    answer = ask(gateway, target="/refusing/v1/chat/completions")
    line = line_of(gateway, answer.request_id)
    assert {name: value for name, value in line.items() if name not in ("time", "duration_ms")} == {
        "level": "warning",
        "logger": "aigw.exchange",
        "message": "upstream_error",
        "request_id": answer.request_id,
        "trace_id": None,
        "provider": "refusing",
        "wire": "chat_completions",
        "caller": "managed",
        "status": 502,
        "upstream_status": None,
        "ttft_ms": None,
        "request_bytes": 0,
        "response_bytes": 0,
        "detail": "upstream_failed: connect",
    }
    assert 0 <= line["duration_ms"] < 60_000
    assert sum(answer.request_id in text for text in gateway.stderr) == 1
    cause = json.loads(gateway.wait_log("cannot connect to a provider"))
    assert (cause["failed"], cause["cause"], cause["host"]) == ("connect", "Connection refused", "127.0.0.1")


@pytest.mark.parametrize(
    ("data", "message", "detail"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "malformed", "Exactly one Host is needed."),
        (b"GET / HTTP/9.1\r\nHost: a\r\n\r\n", "http_version", "Only HTTP/1.0 and HTTP/1.1 are served."),
        (
            call(target="/openai/v1/responses", body=b'{"model": "m", "background": true}'),
            "refused",
            "body_rule: `background` is refused here: such a response states its usage only later.",
        ),
    ],
)
def test_the_detail_says_what_was_wrong(gateway: Gateway, data: bytes, message: str, detail: str) -> None:
    with Client(gateway) as client:
        client.send(data)
        line = line_of(gateway, client.read_answer().request_id)
    assert (line["message"], line["detail"]) == (message, detail)


def test_the_log_of_a_complete_exchange_is_silent(gateway: Gateway) -> None:
    answer = ask(gateway)
    refused = ask(gateway, key=keys.forged_key())
    line_of(gateway, refused.request_id)
    assert not [line for line in gateway.stderr if answer.request_id in line]


def test_an_access_log_tells_of_every_exchange(backend: str, provider: Provider, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("access_log = true\n")
    gateway = Gateway(backend, environment(provider, AI_CONFIG=str(config), AI_LOG_LEVEL="error"))
    try:
        with Client(gateway) as client:
            client.send(call(None, (b"traceparent", TRACEPARENT), body=STREAMED))
            answer = client.read_answer()
        line = line_of(gateway, answer.request_id)
        fact = gateway.fact(answer.request_id)
        assert (line["logger"], line["level"], line["message"]) == ("aigw.access", "info", "complete")
        assert (line["trace_id"], line["status"], line["detail"]) == (TRACE, 200, None)
        for name in ("provider", "wire", "duration_ms", "ttft_ms", "request_bytes", "response_bytes"):
            assert line[name] == fact[name]
        with Client(gateway) as client:
            client.send(request(CHAT, BODY, bearer(keys.BYO_KEY), JSON_TYPE))
            line = line_of(gateway, client.read_answer().request_id)
        assert (line["message"], line["caller"], line["status"]) == ("complete", "byo", 200)
    finally:
        assert gateway.stop() == 0


def test_on_a_terminal_the_log_is_for_people(provider: Provider) -> None:
    parent, child = os.openpty()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "AI_LISTEN_ADDR": "127.0.0.1:0"}
    environ["AI_METRICS_LISTEN"] = environ["AI_LISTEN_ADDR"]
    environ["AI_NO_SUCH_SETTING"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "aigw_asyncio"], env=environ, stderr=child, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    os.close(child)
    try:
        text = b""
        while b"listening data=" not in text:
            text += os.read(parent, 10_000)
    finally:
        process.terminate()
        process.wait()
        os.close(parent)
    first = text.decode().splitlines()[0]
    assert first[8:] == " warning AI_NO_SUCH_SETTING: unknown variable"
