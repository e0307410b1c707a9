"""Origins: one reading of each text, or a refusal that quotes nothing of it."""

import copy
import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.origin import HOST_SIZE_MAX, Origin, parse_origin

LABEL = "a" * 63


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "authority"),
    [
        ("https://api.openai.com", "https", "api.openai.com", 443, "api.openai.com"),
        ("https://api.openai.com:443", "https", "api.openai.com", 443, "api.openai.com"),
        ("https://api.openai.com:80", "https", "api.openai.com", 80, "api.openai.com:80"),
        ("http://localhost", "http", "localhost", 80, "localhost"),
        ("http://localhost:80", "http", "localhost", 80, "localhost"),
        ("http://localhost:443", "http", "localhost", 443, "localhost:443"),
        ("http://mock_provider:1", "http", "mock_provider", 1, "mock_provider:1"),
        ("HTTPS://API.Example.COM:65535", "https", "api.example.com", 65535, "api.example.com:65535"),
        ("http://127.0.0.1:8080", "http", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("https://xn--bcher-kva.example", "https", "xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
        ("https://4chan.example", "https", "4chan.example", 443, "4chan.example"),
        ("https://[::1]", "https", "::1", 443, "[::1]"),
        ("https://[::1]:8443", "https", "::1", 8443, "[::1]:8443"),
        ("http://[2001:DB8:0:0::A]:80", "http", "2001:db8::a", 80, "[2001:db8::a]"),
    ],
)
def test_origins(text: str, scheme: str, host: str, port: int, authority: str) -> None:
    origin = parse_origin(text)
    assert dataclasses.astuple(origin)[:4] == (scheme, host, port, 0)
    assert origin.authority == authority
    assert parse_origin(f"{scheme}://{authority}") == origin


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "starts with"),
        ("api.openai.com", "starts with"),
        ("//api.openai.com", "starts with"),
        ("ftp://api.openai.com", "starts with"),
        ("https:api.openai.com", "starts with"),
        (" https://h", "starts with"),
        ("https://h/", "no path, not even /"),
        ("https://h/v1", "no path"),
        ("https://h:1/v1", "no path"),
        ("https://h?x=1", "no query"),
        ("https://h?", "no query"),
        ("https://h#f", "no fragment"),
        ("https://user@h", "no user or password"),
        ("https://user:secret@h/path?q#f", "no user or password"),
        ("https://h\\x", "visible ASCII"),
        ("https://h h", "visible ASCII"),
        ("https://h\n", "visible ASCII"),
        ("https://h\x00", "visible ASCII"),
        ("https://bücher.example", "visible ASCII"),
        ("https://h%2fx", "visible ASCII"),
        ("https://[fe80::1%eth0]", "visible ASCII"),
        ("https://h:", "port is from 1 to 65535"),
        ("https://h:0", "port is from 1 to 65535"),
        ("https://h:65536", "port is from 1 to 65535"),
        ("https://h:0443", "port is from 1 to 65535"),
        ("https://h:+1", "port is from 1 to 65535"),
        ("https://h:-1", "port is from 1 to 65535"),
        ("https://h:1_0", "port is from 1 to 65535"),
        ("https://h:https", "port is from 1 to 65535"),
        ("https://h:999999999999", "port is from 1 to 65535"),
        ("https://[::1]:", "port is from 1 to 65535"),
        ("https://h:1:2", "one port"),
        ("https://::1", "one port"),
        ("https://[::1", "followed by :port or nothing"),
        ("https://[::1]x", "followed by :port or nothing"),
        ("https://[]", "brackets hold an IPv6"),
        ("https://[::g]", "brackets hold an IPv6"),
        ("https://[127.0.0.1]", "brackets hold an IPv6"),
        ("https://", "host is a name"),
        ("https://:443", "host is a name"),
        ("https://.", "host is a name"),
        ("https://a..b", "host is a name"),
        ("https://a.b.", "host is a name"),
        ("https://.a", "host is a name"),
        ("https://-a", "host is a name"),
        ("https://a-", "host is a name"),
        ("https://a,b", "host is a name"),
        ("https://" + LABEL + "a", "host is a name"),
        ("https://127.1", "no IPv4 address"),
        ("https://2130706433", "no IPv4 address"),
        ("https://0x7f000001", "no IPv4 address"),
        ("https://127.0.0.0x1", "no IPv4 address"),
        ("https://127.0.0.01", "no IPv4 address"),
        ("https://256.0.0.1", "no IPv4 address"),
        ("https://a.1", "no IPv4 address"),
    ],
)
def test_refusals(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_origin(text)
    assert str(caught.value).startswith(("an origin has", "an origin's", "an origin starts"))
    assert "secret" not in str(caught.value)


def test_host_sizes() -> None:
    longest = ".".join([LABEL, LABEL, LABEL, "a" * 61])
    assert len(longest) == HOST_SIZE_MAX
    assert parse_origin(f"https://{longest}").host == longest
    with pytest.raises(ValueError, match="host is a name"):
        parse_origin(f"https://{longest}a")


@given(st.text(st.sampled_from("a1.:[]/@?#-_%\\ x\u0661"), max_size=12))
def test_what_parses_is_one_spelling_away_from_itself(rest: str) -> None:
    try:
        origin = parse_origin("https://" + rest)
    except ValueError as error:
        assert str(error).startswith("an origin")  # noqa: PT017 - both ways count
        return
    assert not set(rest) & set("/@?#%\\ \u0661")
    assert parse_origin(f"https://{origin.authority}") == origin
    assert 1 <= origin.port <= 65535


def test_generations_are_different_origins() -> None:
    old, new = parse_origin("https://h"), parse_origin("https://h", 1)
    assert old != new
    assert new == Origin("https", "h", 443, 1)
    assert hash(new) == hash(Origin("https", "h", 443, 1))
    assert {old: "old", new: "new"}[Origin("https", "h", 443, 1)] == "new"
    assert old.authority == new.authority
    assert repr(new) == "Origin(scheme='https', host='h', port=443, generation=1)"


@pytest.mark.parametrize("change", [{"scheme": "http"}, {"host": "g"}, {"port": 1}, {"generation": 3}])
def test_every_part_counts(change: dict[str, str | int]) -> None:
    origin = Origin("https", "h", 443, 2)
    other = dataclasses.replace(origin, **change)  # type: ignore[arg-type]  # one typed field each
    assert other != origin
    assert hash(other) != hash(origin)


def test_origins_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_origin("https://h").port = 1  # type: ignore[misc]  # the refusal is what is tested


def test_copies_make_their_own_hash() -> None:
    origin = parse_origin("https://[::1]:8443", 4)
    for again in (copy.copy(origin), copy.deepcopy(origin), pickle.loads(pickle.dumps(origin))):
        assert again == origin
        assert hash(again) == hash(origin)
        assert again.authority == "[::1]:8443"
    # The stored hash stays behind: in another process it would be another one.
    assert origin.__reduce__() == (Origin, ("https", "::1", 8443, 4))
