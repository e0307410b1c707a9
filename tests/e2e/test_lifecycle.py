"""The process from start to end: signals, drain, reload, refused configurations, the demo. Each test has its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anthropic
import openai
import pytest

from tests.e2e import DEADLINE, answers, keys
from tests.e2e.calls import STREAMED, call
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.gateway import FACT_FIELDS, ROOT, Gateway, wait_until
from tests.e2e.provider import Case, Provider, Received
from tests.e2e.sdk import anthropic_client, openai_client

pytestmark = pytest.mark.fresh


class Held:
    """A stream that the provider holds open until it is told to finish."""

    def __init__(self, provider: Provider) -> None:
        self.may_finish = False
        self.ended: list[str] = []
        self.case: Case = provider.case(self._script)

    def _script(self, received: Received) -> None:
        events = answers.chat_events(received.json())
        connection = received.connection
        connection.send(answers.STREAM_HEAD + b"".join(map(answers.chunk, events[:2])))
        connection.sock.settimeout(0.02)
        while not self.may_finish and not self.ended:
            try:
                if not connection.sock.recv(1, socket.MSG_PEEK):
                    self.ended.append("orderly")
            except TimeoutError:
                pass
            except ConnectionError:
                self.ended.append("reset")
        connection.sock.settimeout(DEADLINE)
        if not self.ended:
            connection.send(b"".join(map(answers.chunk, events[2:])) + answers.LAST_CHUNK)

    def begin(self, client: Client, key: str | None = None) -> str:
        """The request id, once the stream runs."""
        client.send(call(self.case, key=key, body=STREAMED))
        head = client.read_head()
        client.read_stream_until(b"Bonjour")
        return head.request_id


def ask(client: Client, key: str | None = None) -> int:
    """The status of one more request on this connection."""
    client.send(call(key=key))
    return client.read_answer().status


def ready(gateway: Gateway) -> tuple[int, str]:
    status, body = gateway.admin("/readyz")
    return status, json.loads(body)["status"]


def refuses(gateway: Gateway) -> bool:
    try:
        socket.create_connection(gateway.address, DEADLINE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # It came in the moment of closing.
        return False
    return False


# Probes


def test_a_fresh_gateway_is_alive_and_ready(start: Starter) -> None:
    gateway = start()
    assert gateway.admin("/livez")[0] == 200
    status, body = gateway.admin("/readyz")
    assert (status, json.loads(body)) == (200, {"status": "ok", "deny": "none", "deny_revision": None})
    assert gateway.stop() == 0


def test_one_listening_line_in_every_log_format(start: Starter) -> None:
    for log_format in ("json", "console"):
        gateway = start({"AI_LOG_FORMAT": log_format})
        assert [line for line in gateway.stderr if line.startswith("listening ")] != []
        assert gateway.address[1] > 0
        assert gateway.stop() == 0


# Drain


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_running_stream_finishes(start: Starter, provider: Provider, number: signal.Signals) -> None:
    gateway, held = start(), Held(provider)
    with Client(gateway) as client, Client(gateway) as idle:
        assert ask(idle) == 200
        request_id = held.begin(client)
        gateway.send_signal(number)
        assert idle.read_end() == (b"", "orderly"), "an idle connection is closed at once"
        wait_until(lambda: refuses(gateway), "nobody new is let in")
        assert gateway.admin("/livez")[0] == 200
        assert ready(gateway) == (503, "draining")
        held.may_finish = True
        client.read_stream_until(b"[DONE]\n\n")
        assert client.read_chunk() == b""
        assert client.read_end() == (b"", "orderly")
    assert gateway.wait() == 0
    fact = gateway.fact(request_id)
    assert (fact["outcome"], fact["usage"]) == ("complete", answers.CHAT_USAGE)


def test_a_stream_that_outlasts_the_grace_is_cut(start: Starter, provider: Provider) -> None:
    gateway, held = start({"AI_SHUTDOWN_GRACE_SECS": "0.2"}), Held(provider)
    with Client(gateway) as client:
        request_id = held.begin(client)
        gateway.send_signal(signal.SIGTERM)
        rest, how = client.read_end()
    assert how == "reset"
    assert b"[DONE]" not in rest
    wait_until(lambda: held.ended != [], "the provider is let go")
    assert gateway.wait() == 0
    fact = gateway.fact(request_id)
    assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("gateway_cut", "absent", 200)


def test_a_request_without_an_answer_is_told_at_the_end_of_the_grace(start: Starter, provider: Provider) -> None:
    gateway = start({"AI_SHUTDOWN_GRACE_SECS": "0.2"})

    def script(received: Received) -> None:
        received.read()
        received.connection.wait_closed()

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(call(case))
        case.wait()
        gateway.send_signal(signal.SIGTERM)
        answer = client.read_answer()
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert gateway.wait() == 0
    assert gateway.fact(answer.request_id)["outcome"] == "gateway_cut"


def test_a_second_signal_stops_at_once(start: Starter, provider: Provider) -> None:
    gateway, held = start(), Held(provider)
    with Client(gateway) as client:
        request_id = held.begin(client)
        gateway.send_signal(signal.SIGTERM)
        gateway.wait_log("draining")
        gateway.send_signal(signal.SIGTERM)
        _, how = client.read_end()
        assert how == "reset"
    assert gateway.wait() == 1
    assert gateway.fact(request_id)["outcome"] == "gateway_cut"


def test_connections_are_accepted_for_the_delay(start: Starter, provider: Provider) -> None:
    """Until the load balancer has noticed: served, and told not to come back on this connection."""
    gateway, held = start({"AI_SHUTDOWN_DELAY_SECS": "2"}), Held(provider)
    with Client(gateway) as kept, Client(gateway) as holding:
        assert ask(kept) == 200
        held.begin(holding)
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(gateway) == (503, "draining"), "readiness fails")
        with Client(gateway) as late:
            late.send(call())
            answer = late.read_answer()
            assert answer.status == 200
            assert answer.values(b"connection") == [b"close"]
            assert late.read_end() == (b"", "orderly")
        kept.send(call())
        answer = kept.read_answer()
        assert (answer.status, answer.values(b"connection")) == (200, [b"close"])
        wait_until(lambda: refuses(gateway), "the listener closes")
        held.may_finish = True
        holding.read_stream_until(b"[DONE]")
    assert gateway.wait() == 0


def test_kill_leaves_no_torn_line(start: Starter, provider: Provider) -> None:
    gateway, held = start(), Held(provider)
    with Client(gateway) as client, Client(gateway) as other:
        held.begin(client)
        for _ in range(20):
            assert ask(other) == 200
        wait_until(lambda: len(gateway.stdout) == 20, "each fact is visible at once")
        gateway.send_signal(signal.SIGKILL)
        assert client.read_end()[1] in ("reset", "orderly")
    assert gateway.wait() == -signal.SIGKILL
    assert len(gateway.facts()) == 20
    assert gateway.faults() == []


# Reload


def test_reload_adopts_keys_and_keeps_running_streams(start: Starter, provider: Provider, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"

    def write(text: str) -> None:
        config.write_text(text)

    def reload(count: int, pattern: str) -> None:
        gateway.send_signal(signal.SIGHUP)
        wait_until(lambda: len([1 for line in gateway.stderr if re.search(pattern, line)]) == count, pattern)

    def table(signing_keys: str) -> str:
        return "[signing_keys]\n" + "".join(f'{kid} = "{key}"\n' for kid, key in json.loads(signing_keys).items())

    write("")
    gateway, held = start({"AI_CONFIG": str(config), "AI_SIGNING_KEYS": ""}), Held(provider)
    key = keys.virtual_key()
    with Client(gateway) as client, Client(gateway) as other:
        assert ask(other, key) == 401
        write(table(keys.SIGNING_KEYS))
        reload(1, '"configuration reloaded"')
        assert ask(other, key) == 200, "a new key is known, also on an old connection"
        request_id = held.begin(client, key)
        write("not toml [")
        reload(1, "configuration not reloaded")
        write("rate_limit = 5\n")
        reload(2, "configuration not reloaded")
        assert ask(other, key) == 200, "a bad file changes nothing"
        write(table(keys.OTHER_SIGNING_KEYS))
        reload(2, '"configuration reloaded"')
        assert ask(other, key) == 401, "a removed key is refused, cached or not"
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
        assert client.read_chunk() == b""
    assert gateway.fact(request_id)["outcome"] == "complete"
    hints = [line for line in gateway.stderr if "not reloaded" in line]
    assert any("rate_limit_rps" in line for line in hints), "the nearest name is suggested"
    # A reload that fails is an error in the log, and here the only one.
    gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line]
    assert gateway.stop() == 0


def test_a_pool_key_file_is_read_again(start: Starter, provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-pool-key\n")
    gateway = start({"AI_POOL_KEY_OPENAI": "", "AI_POOL_KEY_OPENAI_FILE": str(file)})
    case = provider.case(answers.by_path)
    for number, key in enumerate((b"first-pool-key", b"second-pool-key"), 1):
        with Client(gateway) as client:
            client.send(call(case))
            assert client.read_answer().status == 200
        assert case.wait(number).values(b"authorization") == [b"Bearer " + key]
        file.write_text("second-pool-key\n")
        gateway.send_signal(signal.SIGHUP)
        gateway.wait_log("configuration reloaded")
    assert gateway.stop() == 0


# What a new user gets wrong


def test_a_port_in_use(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("AI_LISTEN_ADDR", "AI_METRICS_LISTEN"):
            gateway = start({name: address}, listens=False)
            assert gateway.wait() == 1
            (line,) = [line for line in gateway.stderr if address in line]
            assert "in use" in line
            assert name.removeprefix("AI_").lower() in line


def test_a_typo_in_the_file(start: Starter, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text('rate_limit_rsp = 5\nread_timeout_secs = "soon"\n[pool_keys]\nopenay = "k"\n')
    gateway = start({}, "--config", str(config), listens=False)
    assert gateway.wait() == 2
    assert gateway.stdout == []
    text = "\n".join(gateway.stderr)
    assert re.search(r"rate_limit_rsp.*did you mean rate_limit_rps\?", text)
    assert re.search(r"read_timeout_secs.*seconds", text)
    assert re.search(r"openay.*did you mean openai\?", text), "every problem is told at once"
    assert "Traceback" not in text


def test_a_typo_in_the_environment_warns(start: Starter) -> None:
    gateway = start({"AI_RATE_LIMIT_RSP": "5"})
    assert "did you mean AI_RATE_LIMIT_RPS?" in gateway.wait_log("AI_RATE_LIMIT_RSP")
    assert gateway.stop() == 0


def test_a_configuration_file_that_is_not_there(start: Starter, tmp_path: Path) -> None:
    gateway = start({}, "--config", str(tmp_path / "nowhere.toml"), listens=False)
    assert gateway.wait() == 2
    assert any("nowhere.toml" in line for line in gateway.stderr)


def test_an_option_that_does_not_exist(start: Starter) -> None:
    gateway = start({}, "--demmo", listens=False)
    assert gateway.wait() == 2
    assert any("--help" in line or line.startswith("usage:") for line in gateway.stderr)


def test_require_signing_keys(start: Starter) -> None:
    gateway = start({"AI_SIGNING_KEYS": "", "AI_REQUIRE_SIGNING_KEYS": "true"}, listens=False)
    assert gateway.wait() == 2
    assert any("signing_keys" in line for line in gateway.stderr)


# The demo


def _pasted(lines: list[str], begin: str) -> str:
    """The lines of the guide from one comment to the next."""
    start = lines.index(begin) + 1
    end = next((n for n in range(start, len(lines)) if lines[n].startswith("#") or not lines[n]), len(lines))
    return "\n".join(lines[start:end])


def test_the_demo_end_to_end(backend: str) -> None:
    """What is printed is pasted as it is; facts appear on stdout while it runs."""
    gateway = Gateway(backend, {}, arguments=("--demo",), fresh=True)
    try:
        gateway.wait_log(r"^    for text in stream\.text_stream:$")
        wait_until(lambda: any("print(text" in line for line in gateway.stderr), "the guide is printed")
        guide = list(gateway.stderr)
        for title in ("# Python, openai SDK", "# Python, anthropic SDK"):
            program = _pasted(guide, title)
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, cwd=ROOT, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert len(done.stdout.split()) > 5, "an answer, and a streamed one"
        key = re.search(r"bai_v2\.\S+(?=')", "\n".join(guide))
        assert key is not None
        with openai_client(gateway, key[0]) as client:
            assert (
                client.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": "Hello"}])
                .choices[0]
                .message.content
            )
            chunks = list(
                client.chat.completions.create(
                    model="gpt-5.4-mini", messages=[{"role": "user", "content": "Hello"}], stream=True
                )
            )
            assert all(chunk.usage is None for chunk in chunks)
        with anthropic_client(gateway, key[0]) as talker:
            assert talker.messages.create(
                model="claude-sonnet-5-5", max_tokens=64, messages=[{"role": "user", "content": "Hello"}]
            ).content
        with openai_client(gateway, key[0][:-4] + "AAAA") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with anthropic_client(gateway, "sk-ant-somebody") as talker, pytest.raises(anthropic.AuthenticationError):
            talker.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])
        wait_until(lambda: len(gateway.stdout) == 7, "a fact for each managed exchange")
        facts = list(gateway.facts().values())
        assert {tuple(fact) for fact in facts} == {FACT_FIELDS}
        assert {fact["usage_status"] for fact in facts} == {"final"}
        assert sorted(fact["streaming"] for fact in facts) == [False] * 4 + [True] * 3
        gateway.send_signal(signal.SIGINT)
        assert gateway.wait() == 0
        assert gateway.faults() == []
    finally:
        if gateway.running():
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()


def test_the_curl_lines_of_the_demo(backend: str) -> None:
    gateway = Gateway(backend, {}, arguments=("--demo",), fresh=True)
    try:
        wait_until(lambda: any("print(text" in line for line in gateway.stderr), "the guide is printed")
        lines = [line for line in gateway.stderr if line.startswith("curl ")]
        assert len(lines) == 4
        for line in lines:
            try:
                done = subprocess.run(
                    ["bash", "-c", line], capture_output=True, text=True, timeout=DEADLINE, check=False
                )
            except FileNotFoundError:
                pytest.skip("there is no bash")
            if done.returncode == 127:
                pytest.skip("there is no curl")
            assert (done.returncode, done.stderr) == (0, "")
            if '"stream": true' in line:
                assert done.stdout.rstrip().endswith(("data: [DONE]", "}"))
                assert done.stdout.count("data: ") > 3
            else:
                assert "usage" in json.loads(done.stdout)
        wait_until(lambda: len(gateway.stdout) == 4, "a fact for each")
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0
    finally:
        if gateway.running():
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()
