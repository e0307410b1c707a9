"""HTTP/1.1 over real sockets: connections, framings, interim answers, upgrades."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable

import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import BODY, CHAT, STREAMED, call
from tests.e2e.client import Answer, Client, Closed, bearer, request
from tests.e2e.fleet import Fleet, environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received

# Connections


def test_connections_are_kept_on_both_sides(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with Client(gateway) as client:
        for _ in range(5):
            client.send(call(case))
            answer = client.read_answer()
            assert (answer.status, answer.complete) == (200, True)
            assert answer.values(b"connection") == []
    assert len({received.connection for received in case.received}) == 1


def test_three_requests_in_one_write(gateway: Gateway, provider: Provider) -> None:
    def echo_number(received: Received) -> None:
        answers_number = received.json()["user"]
        received.connection.send(answers.json_answer({"number": answers_number}))

    case = provider.case(echo_number)
    bodies = [json.dumps({"model": "m", "messages": [], "user": n}).encode() for n in ("one", "two", "three")]
    with Client(gateway) as client:
        client.send(b"".join(call(case, body=body) for body in bodies))
        got = [client.read_answer() for _ in bodies]
    assert [answer.json()["number"] for answer in got] == ["one", "two", "three"]
    ids = [answer.request_id for answer in got]
    assert ids == sorted(set(ids))
    assert [gateway.fact(one)["outcome"] for one in ids] == ["complete"] * 3


def test_requests_behind_a_refused_one_are_still_served(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with Client(gateway) as client:
        client.send(call(case, key=keys.forged_key()) + call(case) + request("/nobody/v1/x", b"?" * 1000, bearer("k")))
        assert [client.read_answer().status for _ in range(3)] == [401, 200, 404]
        client.send(call(case))
        assert client.read_answer().status == 200


def test_a_request_byte_by_byte(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    data = call(case)
    with Client(gateway) as client:
        client.send_pieces(data[n : n + 1] for n in range(len(data)))
        assert client.read_answer().json()["usage"] == answers.CHAT_USAGE
    assert case.received[0].body == BODY


def test_close_is_obeyed(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with Client(gateway) as client:
        client.send(call(case, (b"Connection", b"close")) + call(case))
        answer = client.read_answer()
        assert answer.values(b"connection") == [b"close"]
        assert client.read_end() == (b"", "orderly")
    assert len(case.received) == 1, "what is sent behind the last request is not served"


def test_an_idle_connection_is_closed_in_time(hurried: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with Client(hurried) as client:
        client.send(call(case))
        assert client.read_answer().status == 200
        assert client.read_end() == (b"", "orderly")
    with Client(hurried) as client:
        assert client.read_end() == (b"", "orderly")


def _has(endings: list[str], count: int) -> bool:
    return len(endings) == count


def test_a_provider_that_closes_idle_connections_harms_nobody(gateway: Gateway, provider: Provider) -> None:
    endings: list[str] = []

    def answer_and_close(received: Received) -> None:
        answers.by_path(received)
        received.connection.sock.shutdown(socket.SHUT_WR)
        endings.append(received.connection.wait_closed())
        received.connection.close()

    case = provider.case(answer_and_close)
    with Client(gateway) as client:
        for number in range(1, 6):
            client.send(call(case))
            assert client.read_answer().status == 200
            wait_until(functools.partial(_has, endings, number), "the gateway lets the idle connection go")
    assert len({received.connection for received in case.received}) == 5
    assert endings == ["orderly"] * 5


def test_only_a_safe_request_is_repeated_on_another_connection(gateway: Gateway, fleet: Fleet) -> None:
    """A kept connection may die under a request; whether the provider has begun to work on it, nobody knows."""

    def die_when_reused(received: Received) -> None:
        received.read()
        if received.connection.requests > 1:
            received.connection.close()
        else:
            received.connection.send(answers.json_answer({}))

    case = fleet.lonely.case(die_when_reused)
    statuses = []
    with Client(gateway) as client:
        for method, body in (("GET", b""), ("GET", b""), ("POST", b"{}")):
            client.send(request("/lonely/v1/files", body, bearer(keys.BYO_KEY), case.header, method=method))
            statuses.append(client.read_answer(method).status)
    assert statuses == [200, 200, 502]
    methods = [received.request_line.partition(b" ")[0] for received in case.received]
    assert methods == [b"GET", b"GET", b"GET", b"POST"], "the second GET went out twice, the POST once"


def test_a_provider_that_keeps_connections_for_a_moment_only(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.json_answer({}, "200 OK", ("Keep-Alive", "timeout=1")))
    with Client(gateway) as client:
        for _ in range(3):
            client.send(call(case))
            assert client.read_answer().status == 200
    assert len({received.connection for received in case.received}) == 3


def test_connections_beyond_the_limit_are_closed(backend: str, provider: Provider) -> None:
    limited = Gateway(backend, {**environment(provider), "AI_MAX_CONNECTIONS": "2"})
    try:
        with Client(limited) as first:
            with Client(limited) as second:
                for client in (first, second):
                    client.send(call())
                    assert client.read_answer().status == 200
                with Client(limited) as third:
                    assert third.read_end()[0] == b""
                told = json.loads(limited.wait_log("max_connections is reached"))
                assert (told["level"], told["open"], told["closed"]) == ("warning", 2, 1)
                first.send(call())
                assert first.read_answer().status == 200
            wait_until(lambda: limited.metric("aigw_connections") == 1, "one has gone")
            with Client(limited) as again:
                again.send(call())
                assert again.read_answer().status == 200
    finally:
        assert limited.stop() == 0


def test_bytes_that_nobody_asked_for_answer_nobody(gateway: Gateway, provider: Provider) -> None:
    poison = answers.json_answer({"poison": True})
    endings: list[str] = []

    def script(received: Received) -> None:
        answers.by_path(received)
        if len(case.received) == 1:
            received.connection.send(poison)
            endings.append(received.connection.wait_closed())
            received.connection.close()

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(call(case))
        assert "poison" not in client.read_answer().json()
        wait_until(lambda: endings != [], "the poisoned connection is dropped")
        for _ in range(3):
            client.send(call(case))
            assert "poison" not in client.read_answer().json()
    assert case.received[0].connection not in [received.connection for received in case.received[1:]]


def test_bytes_beyond_the_answer_go_nowhere(gateway: Gateway, provider: Provider) -> None:
    document = answers.chat_completion({})
    case = provider.case(answers.json_answer(document) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    with Client(gateway) as client:
        for _ in range(3):
            client.send(call(case))
            assert client.read_answer().json() == document
    assert len({received.connection for received in case.received}) == 3


# Framings


def test_head(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.head("200 OK", ("Content-Type", "application/json"), ("Content-Length", "12345")))
    with Client(gateway) as client:
        for key in (keys.virtual_key(), keys.BYO_KEY):
            client.send(request("/openai/v1/models", b"", bearer(key), case.header, method="HEAD"))
            answer = client.read_answer("HEAD")
            assert answer.status == 200
            assert answer.values(b"content-length") == [b"12345"]
        client.send(request("/openai/v1/models", b"", bearer(keys.forged_key()), method="HEAD"))
        refused = client.read_answer("HEAD")
        assert refused.status == 401
        client.send(request("/openai/v1/models", b"", bearer(keys.virtual_key()), method="GET"))
        assert client.read_answer("GET").json()["object"] == "list"


def test_204_and_304(gateway: Gateway, provider: Provider) -> None:
    none = provider.case(answers.head("204 No Content", ("X-A", "1")))
    same = provider.case(answers.head("304 Not Modified", ("Content-Length", "77"), ("ETag", '"x"')))
    with Client(gateway) as client:
        for _ in range(2):
            client.send(request("/openai/v1/files/1", b"", bearer(keys.BYO_KEY), none.header, method="DELETE"))
            answer = client.read_answer()
            assert answer.status == 204
            assert {name.lower() for name, _ in answer.headers} == {b"x-a", b"x-aigw-request-id"}
            client.send(request("/openai/v1/models", b"", bearer(keys.BYO_KEY), same.header, method="GET"))
            answer = client.read_answer()
            assert answer.status == 304
            assert answer.values(b"content-length") == [b"77"]
            assert answer.values(b"etag") == [b'"x"']


def _hinting(count: int) -> bytes:
    hint = answers.head("103 Early Hints", ("Link", "</x>; rel=preload"), ("Connection", "X-Y"), ("X-Y", "gone"))
    return answers.head("100 Continue") + hint * count + answers.json_answer(answers.chat_completion({}))


def test_interim_answers_are_relayed(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(_hinting(2))
    with Client(gateway) as client:
        client.send(call(case))
        for _ in range(2):
            hint = client.read_answer()
            assert hint.status == 103
            assert hint.headers == [(b"Link", b"</x>; rel=preload")]
        assert client.read_answer().status == 200


def test_interim_answers_have_an_end(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(_hinting(1000))
    with Client(gateway) as client:
        client.send(call(case))
        seen = 0
        while (answer := client.read_answer()).status == 103:
            seen += 1
        assert answer.status == 502
    assert seen == 15, "16, the provider's own 100 included"
    assert gateway.fact(answer.request_id)["outcome"] == "upstream_abort"


def test_http_1_0(gateway: Gateway, provider: Provider) -> None:
    hinting = provider.case(_hinting(2))
    streaming = provider.case(answers.by_path)
    with Client(gateway) as client:
        client.send(call(hinting).replace(b" HTTP/1.1\r\nHost: gateway.test\r\n", b" HTTP/1.0\r\n"))
        answer = client.read_answer()
        assert answer.status == 200, "no interim answer, and no Host needed"
        assert answer.json()["usage"] == answers.CHAT_USAGE
        assert client.read_end() == (b"", "orderly")
    assert hinting.received[0].request_line == b"POST /v1/chat/completions HTTP/1.1"
    with Client(gateway) as client:
        client.send(call(streaming, body=STREAMED).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"))
        answer = client.read_answer()
    assert answer.values(b"transfer-encoding") == []
    assert answer.ended == "orderly"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert gateway.fact(answer.request_id)["outcome"] == "complete"


def test_a_cut_stream_to_http_1_0_does_not_look_complete(gateway: Gateway, provider: Provider) -> None:
    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[1]))
        received.connection.close()

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(call(case).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"))
        answer = client.read_answer()
    assert answer.ended == "reset", "only the end of the connection ends this body, so it must not be orderly"


# 100-continue


def test_100_continue(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    length = (b"Content-Length", b"%d" % len(BODY))
    with Client(gateway) as client:
        client.send(call(case, length, (b"Expect", b"100-continue"), body=b""))
        interim = client.read_answer()
        assert interim.head == b"HTTP/1.1 100 Continue"
        client.send(BODY)
        assert client.read_answer().status == 200
        client.send(call(case, (b"Expect", b"100-Continue")))
        answer = client.read_answer()
        if answer.status == 100:
            answer = client.read_answer()
        assert answer.status == 200
    for received in case.received:
        assert received.values(b"expect") == []
        assert received.body == BODY


def test_a_refused_request_is_not_told_to_continue(gateway: Gateway, provider: Provider) -> None:
    own = ((b"Content-Length", b"1000000"), (b"Expect", b"100-continue"))
    for target, key, status in ((CHAT, keys.forged_key(), 401), ("/nobody/x", keys.BYO_KEY, 404)):
        with Client(gateway) as client:
            client.send(call(None, *own, target=target, key=key, body=b""))
            answer = client.read_answer()
            assert answer.status == status
            assert answer.values(b"connection") == [b"close"]
            assert client.read_end() == (b"", "orderly")


# Headers of ours, upgrades


def test_nobody_speaks_in_our_name(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.json_answer({}, "200 OK", ("X-Aigw-Request-Id", "spoofed"), ("x-aigw-tenant", "1")))
    with Client(gateway) as client:
        client.send(call(case, (b"X-AIGW-Request-ID", b"spoofed"), (b"x-aigw-tenant", b"1")))
        answer = client.read_answer()
    assert b"spoofed" not in answer.head
    assert answer.values(b"x-aigw-tenant") == []
    assert b"aigw" not in case.received[0].head.lower()


@pytest.mark.parametrize("key", [keys.BYO_KEY, keys.virtual_key()], ids=["byo", "managed"])
def test_websockets_are_told_to_use_http(gateway: Gateway, provider: Provider, key: str) -> None:
    upgrade = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))
    case = provider.case(answers.by_path)
    shapes: list[tuple[str, Callable[[Answer], str]]] = [
        ("/openai/v1/responses", lambda answer: str(answer.json()["error"]["code"])),
        ("/anthropic/v1/messages", lambda answer: str(answer.json()["error"]["type"])),
    ]
    for target, read in shapes:
        with Client(gateway) as client:
            client.send(request(target, b"", bearer(key), *upgrade, case.header, method="GET"))
            answer = client.read_answer()
        assert answer.status == 426
        assert answer.values(b"upgrade") == [b"websocket"]
        assert answer.values(b"x-should-retry") == [b"false"]
        assert read(answer) in ("upgrade_required", "invalid_request_error")
    assert case.received == []


def test_h2c_is_ignored(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    upgrade = (
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"AAMAAABkAAQAAP__"),
    )
    with Client(gateway) as client:
        for _ in range(2):
            client.send(call(case, *upgrade))
            assert client.read_answer().status == 200
    for received in case.received:
        assert received.values(b"upgrade") == received.values(b"http2-settings") == []


def test_a_caller_who_says_nothing_and_closes(gateway: Gateway) -> None:
    with Client(gateway) as client:
        client.half_close()
        with pytest.raises(Closed, match="orderly"):
            client.read_head()
