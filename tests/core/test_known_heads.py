"""Two gateways get the same bytes; one learns what its providers' heads look like, the other parses each of them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from aigw_core.effects import Effect, EmitFact, OpenFact
from aigw_core.gateway import Gateway
from aigw_core.http1.shapes import SIGHTINGS, Look, ResponseShapes
from aigw_core.messages import ResponseHead
from aigw_core.policy import OnClientAbort
from tests.core.driver import (
    BYO_KEY,
    CHAT,
    CHAT_STREAM,
    COMPLETION,
    POOL_KEY,
    VIRTUAL_KEY,
    MemoryDriver,
    json_response,
    make_gateway,
    make_policy,
    request,
)


class Learning(ResponseShapes):
    """Counts what it is asked and what it knew."""

    __slots__ = ("counts",)

    def __init__(self, id_names: tuple[bytes, ...]) -> None:
        super().__init__(id_names)
        self.counts: Counter[str] = Counter()

    def find(self, data: bytes) -> Look | None:
        look = super().find(data)
        self.counts["known" if look else "parsed"] += 1
        return look


class Never(ResponseShapes):
    __slots__ = ()

    def learn(self, block: bytes, head: ResponseHead) -> None:
        pass


def gateway_of(kind: type[ResponseShapes], *, drains: bool = False) -> Gateway:
    base = make_policy()
    abort = OnClientAbort.DRAIN if drains else OnClientAbort.ABORT
    providers = {
        name: replace(
            provider, on_client_abort=abort, response_shapes=kind((b"x-request-id", b"request-id", b"x-generation-id"))
        )
        for name, provider in base.providers.items()
    }
    return make_gateway(replace(base, providers=providers))


class Logged(MemoryDriver):
    """Keeps every effect, as text."""

    def __init__(self, gateway: Gateway, connect: str) -> None:
        super().__init__(gateway, connect=connect)
        self.log: list[str] = []

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, EmitFact):
            self.log.append(effect.fact.encode().decode())
        elif not isinstance(effect, OpenFact):
            self.log.append(repr(effect))
        super()._carry_out(effect)

    def seen(self) -> tuple[object, ...]:
        machine = self.machine
        own = (self.log, self.down, self.up, self.released, self.closed)
        return (*own, machine.state, machine.deadline, machine.wants_downstream, machine.done, self.gateway.active)


EVENTS = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)
STATUSES = [b"200 OK"] * 8 + [
    b"200",
    b"201 Created",
    b"429 Too Many",
    b"500 Oops",
    b"400 " + POOL_KEY,
    b"204 x",
    b"304 x",
]
NAMES = (
    b"Date x-request-id X-Request-Id request-id x-generation-id Set-Cookie set-cookie Server X-A Retry-After Via"
).split()
STAYING = b"Trailer Proxy-Status x-aigw-request-id TE".split()
"""Names of fields that never cross: their values are part of a look."""
TYPES = [b"application/json"] * 5 + [
    b"application/json; charset=utf-8",
    b"text/event-stream",
    b"Application/JSON",
    POOL_KEY,
]
CONNECTIONS = [b"keep-alive"] * 8 + [b"close", b"Close", b"keep-alive, close", b"x-a", b"X-Request-Id", b"upgrade"]
BODIES = [COMPLETION] * 5 + [EVENTS] * 2 + [b"", b'{"error":"bad ' + POOL_KEY + b'"}', b"{", b"x" * 70_000]

Field = tuple[bytes, bytes | None]
"""A name, and its value; None for one that differs each time."""
Template = tuple[bytes, list[Field], str]
"""A status, fields, and how the body is framed."""


class Provider:
    """Makes up responses: some looks, and what may come of one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.looks = [self._look() for _ in range(self.random.choice([1, 1, 1, 2, 2, 3, 10]))]

    def _maybe(self, chance: float, name: bytes, values: list[bytes]) -> list[Field]:
        return [(name, self.random.choice(values))] if self.random.random() < chance else []

    def _look(self) -> Template:
        rnd = self.random
        fields: list[Field] = [(rnd.choice(NAMES), None) for _ in range(rnd.choice([0, 1, 3, 5, 8]))]
        fields += self._maybe(0.8, b"Content-Type", TYPES)
        fields += self._maybe(0.15, b"Content-Encoding", [b"gzip", b"identity", b"Identity"])
        fields += self._maybe(0.5, b"Connection", CONNECTIONS)
        fields += self._maybe(0.3, b"Keep-Alive", [b"timeout=5", b"timeout=60, max=100", b"max=4", b"timeout=0"])
        fields += self._maybe(0.3, rnd.choice(STAYING), [b"y"])
        framing = rnd.choice(["length"] * 8 + ["chunked"] * 3 + ["none"])
        if framing != "none":
            fields.append((b"Content-Length", b"") if framing == "length" else (b"Transfer-Encoding", b"chunked"))
        rnd.shuffle(fields)
        return rnd.choice(STATUSES), fields, framing

    def _value(self, *, wild: bool) -> bytes:
        rnd = self.random
        usual = b"v%d" % rnd.randrange(99)
        if not wild:
            return usual
        values = [usual] * 6 + [b"a b\t c", b"\xff\x80 \xfe", POOL_KEY, b"x " + POOL_KEY, b"", b"x: y", b"q" * 300]
        return rnd.choice([*values, b"q" * 5_000, b"\x00", b"a\nb"])

    def _length(self, size: int, *, wild: bool) -> bytes:
        right = b"%d" % size
        if not wild or self.random.random() > 0.2:
            return right
        others = [b"0" + right, right + b" ", b"+" + right, b"-1", right + b", " + right, b"1" * 19, b"", b"0"]
        return self.random.choice([*others, b"%d" % (size + 1), b"%d" % max(0, size - 1)])

    def response(self, *, wild: bool) -> list[bytes]:
        """The reads of one; ``wild``: with all that may be wrong with it."""
        rnd = self.random
        status, fields, framing = rnd.choice(self.looks)
        body = rnd.choice(BODIES)
        if wild and rnd.random() < 0.2:
            fields = [*fields, rnd.choice([(rnd.choice(NAMES + STAYING), None), *fields])]
        lines = []
        for name, given in fields:
            value = given
            if name == b"Content-Length":
                value = self._length(len(body), wild=wild)
            elif value is None:
                value = self._value(wild=wild)
            between = b": " if not wild or rnd.random() > 0.03 else rnd.choice([b":", b":  ", b" : "])
            lines.append(name + between + value)
        version = b"HTTP/1.1" if not wild or rnd.random() > 0.03 else rnd.choice([b"HTTP/1.0", b"HTTP/2"])
        head = b"\r\n".join([version + b" " + status, *lines, b"", b""])
        before = rnd.choice([b"HTTP/1.1 100 x\r\n\r\n", b"HTTP/1.1 103 x\r\nLink: y\r\n\r\n"])
        head = before + head if wild and rnd.random() < 0.08 else head
        if framing == "chunked":
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        behind = rnd.choice([b"\r\n", b"x", head]) if wild and rnd.random() < 0.06 else b""
        return self._reads(head, body + behind)

    def _reads(self, head: bytes, rest: bytes) -> list[bytes]:
        rnd = self.random
        data = head + rest
        how = rnd.random()
        if how < 0.6:
            reads = [data]
        elif how < 0.8:
            reads = [head, rest]
        elif how < 0.85 and len(data) < 3_000:
            reads = [data[i : i + 1] for i in range(len(data))]
        else:
            cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.randrange(1, 5)))
            reads = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [read for read in reads if read]

    def request(self) -> bytes:
        rnd = self.random
        key = rnd.choice([VIRTUAL_KEY] * 4 + [BYO_KEY])
        method = rnd.choice([b"POST"] * 8 + [b"GET", b"HEAD"])
        if method != b"POST":
            return request(method=method, target=b"/openai/v1/models", key=key, length=False)
        target = rnd.choice([b"/openai/v1/chat/completions"] * 6 + [b"/mistral/v1/chat/completions"])
        whole = request(rnd.choice([CHAT, CHAT, CHAT_STREAM]), target=target, key=key)
        return whole if rnd.random() > 0.04 else whole[:-5]


WARM = 30
"""Responses that teach, in each of which nothing is wrong."""


@pytest.mark.parametrize("seed", range(40))
def test_nobody_can_tell_which_of_them_learns(seed: int) -> None:
    provider = Provider(seed)
    rnd = provider.random
    drains, connect = rnd.random() < 0.5, rnd.choice(["auto", "reuse"])
    gateways = gateway_of(Learning, drains=drains), gateway_of(Never, drains=drains)
    pair = [Logged(gateway, connect) for gateway in gateways]
    for step in range(120):
        if pair[0].machine.busy or pair[0].done() or pair[0].closed is not None or rnd.random() < 0.1:
            pair = [Logged(gateway, connect) for gateway in gateways]
        asked, reads = provider.request(), provider.response(wild=step >= WARM)
        lost_at = rnd.randrange(len(reads) + 1) if rnd.random() < 0.04 else -1
        end, waits = rnd.random(), rnd.random() < 0.02
        for driver in pair:
            driver.receive(asked)
            for number, read in enumerate(reads):
                if number == lost_at:
                    driver.lost()
                driver.upstream(read)
            if end < 0.1 or (driver.machine.busy and end < 0.6):
                driver.upstream_lost(error=end < 0.05)
            if waits:
                driver.advance(1_000)
        assert pair[0].seen() == pair[1].seen()


def test_most_heads_are_recognised() -> None:
    """Else the one above would say nothing."""
    counts: Counter[str] = Counter()
    for seed in range(10):
        provider, gateway = Provider(seed), gateway_of(Learning)
        for _ in range(100):
            driver = MemoryDriver(gateway)
            driver.receive(request(CHAT))
            driver.upstream(b"".join(provider.response(wild=False)))
        shapes = gateway.policy.providers["openai"].response_shapes
        assert isinstance(shapes, Learning)
        counts += shapes.counts
    assert counts["known"] > 400


def known_answer(*lines: bytes, body: bytes = COMPLETION, status: bytes = b"200 OK") -> bytes:
    return json_response(body, status=status, headers=b"".join(line + b"\r\n" for line in lines))


def taught(*lines: bytes, status: bytes = b"200 OK", gateway: Gateway | None = None) -> MemoryDriver:
    """A connection of a gateway that knows the look of :func:`known_answer` of these lines."""
    driver = MemoryDriver(gateway, connect="reuse")
    for _ in range(SIGHTINGS):
        driver.receive(request(CHAT)).upstream(known_answer(*lines, status=status))
    assert driver.gateway.policy.providers["openai"].response_shapes._known
    return driver


def test_a_known_answer_tells_how_long_its_connection_is_kept() -> None:
    gateway = gateway_of(Learning)
    driver = Logged(gateway, "reuse")
    for _ in range(SIGHTINGS + 1):
        driver.receive(request(CHAT)).upstream(known_answer(b"Keep-Alive: timeout=5"))
    released = [line for line in driver.log if line.startswith("ReleaseUpstream")]
    assert len({line.partition("reusable")[2] for line in released}) == 1
    assert "idle_timeout=4.0" in released[-1]


def test_a_known_answer_tells_that_its_connection_ends() -> None:
    driver = taught(b"Connection: close").receive(request(CHAT)).upstream(known_answer(b"Connection: close"))
    assert driver.released[driver.attempt] is False


@pytest.mark.parametrize(
    ("status", "line"),
    [(b"200 OK", b"X-A: " + POOL_KEY), (b"200 OK", b"x-request-id: " + POOL_KEY), (b"400 " + POOL_KEY, b"X-A: b")],
)
def test_the_pool_key_is_masked_in_a_known_head(status: bytes, line: bytes) -> None:
    name = line.partition(b":")[0]
    driver = taught(name + b": usual", b"request-id: other", status=status)
    before = len(driver.down)
    driver.receive(request(CHAT)).upstream(known_answer(line, b"request-id: other", status=status))
    assert POOL_KEY not in driver.down
    assert b"*" * len(POOL_KEY) in driver.down[before:]
    assert POOL_KEY.decode() not in (driver.ledger.facts[-1].upstream_request_id or "")


def test_an_id_is_bounded_in_a_known_head() -> None:
    driver = taught(b"x-request-id: usual").receive(request(CHAT))
    driver.upstream(known_answer(b"x-request-id: " + b"x" * 3_000))
    assert driver.ledger.facts[-1].upstream_request_id == "x" * 256


def test_a_known_head_loses_its_length_where_an_event_is_taken_out() -> None:
    kind = b"Content-Type: text/event-stream"
    driver = MemoryDriver(connect="reuse")
    answer = b"HTTP/1.1 200 OK\r\n" + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS
    downs = []
    for _ in range(SIGHTINGS + 1):
        before = len(driver.down)
        driver.receive(request(CHAT_STREAM)).upstream(answer)
        downs.append(driver.down[before:].replace(driver.ledger.facts[-1].id.encode(), b"id"))
    assert len(set(downs)) == 1
    assert b"Content-Length" not in downs[0]
    assert b"prompt_tokens" not in downs[0]


def test_an_encoded_answer_of_a_known_look_is_not_read_as_text() -> None:
    encoded = b"Content-Encoding: br"
    driver = taught(encoded).receive(request(CHAT)).upstream(known_answer(encoded))
    assert {fact.usage_status for fact in driver.ledger.facts} == {"unparsed"}


def test_another_encoding_is_another_look() -> None:
    driver = (
        taught(b"Content-Encoding: br").receive(request(CHAT)).upstream(known_answer(b"Content-Encoding: identity"))
    )
    assert driver.ledger.facts[-1].usage_status == "final"


def test_bytes_in_front_of_a_known_answer_are_not_forgotten() -> None:
    driver = taught().receive(request(CHAT)).upstream(b"HTT").upstream(known_answer())
    assert b"HTTP/1.1 502 Bad Gateway" in driver.down
    assert driver.released[driver.attempt] is False
