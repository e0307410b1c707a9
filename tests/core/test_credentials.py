"""Where a credential may stand, and what must never travel."""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import credentials
from aigw_core.credentials import CREDENTIAL_HEADERS, Credential, find_credential
from aigw_core.errors import Reason, Rejection
from aigw_core.headers import Headers
from tests.core.driver import VIRTUAL_KEY, VIRTUAL_KEY_V2

PATH = b"/openai/v1/chat/completions"
PLACES: list[tuple[bytes, bytes]] = [
    (b"Authorization", b"Bearer "),
    (b"X-Api-Key", b""),
    (b"api-key", b""),
    (b"X-Goog-Api-Key", b""),
]


def find(*pairs: tuple[bytes, bytes], target: bytes = PATH) -> Credential | Rejection | None:
    return find_credential(Headers.of(pairs), target)


def reason_of(*pairs: tuple[bytes, bytes], target: bytes = PATH) -> Reason | None:
    found = find(*pairs, target=target)
    return found.reason if isinstance(found, Rejection) else None


def managed(key: bytes) -> Credential:
    return Credential(key, managed=True)


def byo(*keys: bytes) -> Credential:
    return Credential(keys[0], False, keys[1:])


@pytest.mark.parametrize(("name", "scheme"), PLACES)
def test_a_virtual_key_in_each_of_the_four_places(name: bytes, scheme: bytes) -> None:
    assert find((name, scheme + VIRTUAL_KEY)) == managed(VIRTUAL_KEY)
    assert find((name.upper(), scheme + VIRTUAL_KEY)) == managed(VIRTUAL_KEY)


@pytest.mark.parametrize(("name", "scheme"), PLACES)
@pytest.mark.parametrize(("other", "other_scheme"), PLACES)
def test_a_virtual_key_wins_over_anything_beside_it(
    name: bytes, scheme: bytes, other: bytes, other_scheme: bytes
) -> None:
    """Taking the first header only once let a virtual key travel to a provider beside a junk one."""
    key, junk = (name, scheme + VIRTUAL_KEY), (other, other_scheme + b"sk-junk")
    assert find(key, junk) == find(junk, key) == managed(VIRTUAL_KEY)
    assert find(key, (other, other_scheme + VIRTUAL_KEY)) == managed(VIRTUAL_KEY)
    different = (other, other_scheme + VIRTUAL_KEY_V2)
    assert reason_of(key, different) is reason_of(different, key) is Reason.CONFLICTING_KEYS
    empty = (other, other_scheme.strip())
    assert find(key, empty) == find(empty, key) == managed(VIRTUAL_KEY)


@pytest.mark.parametrize(("name", "scheme"), PLACES)
def test_every_line_of_a_repeated_header_counts(name: bytes, scheme: bytes) -> None:
    lines = [(name, scheme + b"sk-1"), (name.lower(), scheme + b"sk-2"), (name, scheme + VIRTUAL_KEY)]
    assert find(*lines) == managed(VIRTUAL_KEY)
    assert reason_of(*lines, (name, scheme + VIRTUAL_KEY_V2)) is Reason.CONFLICTING_KEYS
    assert find(*lines[:2]) == byo(b"sk-1", b"sk-2")


@pytest.mark.parametrize("value", [b"bai_", b"bai_v", b"bai_v1.1.x.y", b"bai_v9.1.a.b", b"bai_anything", b"bai_v1 b"])
@pytest.mark.parametrize(("name", "scheme"), PLACES)
def test_what_starts_like_a_virtual_key_is_never_byo(name: bytes, scheme: bytes, value: bytes) -> None:
    assert find((name, scheme + value)) == managed(value)
    assert reason_of((name, scheme + value), (name, scheme + VIRTUAL_KEY)) is Reason.CONFLICTING_KEYS


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer sk-1", b"sk-1"),
        (b"bearer sk-1", b"sk-1"),
        (b"BEARER\t sk-1", b"sk-1"),
        (b"Bearer  sk 1", b"sk 1"),
        (b"Basic dTpw", b"Basic dTpw"),
        (b"Bearersk-1", b"Bearersk-1"),
        (b"sk-1", b"sk-1"),
        (b"Bear", b"Bear"),
    ],
)
def test_the_bearer_scheme(value: bytes, token: bytes) -> None:
    """RFC 6750 §2.1; other schemes are credentials too, as BYO, and pass as they are."""
    assert find((b"Authorization", value)) == byo(token)


def test_empty_counts_as_absent() -> None:
    empties = [
        (b"Authorization", b""),
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"bearer"),
        (b"x-api-key", b""),
    ]
    assert find() is None
    assert find(*empties) is None
    assert find(*empties, (b"api-key", b"sk-1")) == byo(b"sk-1")


def test_byo_credentials_are_all_known() -> None:
    found = find((b"x-api-key", b"sk-1"), (b"Authorization", b"Bearer sk-2"), (b"x-goog-api-key", b"AIza"))
    assert found == byo(b"sk-1", b"sk-2", b"AIza")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X-Other", VIRTUAL_KEY),
        (b"X-Other", b"before " + VIRTUAL_KEY + b" behind"),
        (b"Cookie", b"session=" + VIRTUAL_KEY),
        (b"Proxy-Authorization", b"Bearer " + VIRTUAL_KEY),
        (b"x_api_key", VIRTUAL_KEY),
        (b"OpenAI-Api-Key", VIRTUAL_KEY),
        (b"X-Other", b"bai_v"),
        (b"Authorization", b"Basic " + VIRTUAL_KEY),
        (b"Authorization", VIRTUAL_KEY),
        (b"Authorization", b"bai_x"),
        (b"Authorization", b"Bearer sk-1, Bearer " + VIRTUAL_KEY),
        (b"x-api-key", b"sk-1 " + VIRTUAL_KEY),
        (b"x-api-key", b"Bearer " + VIRTUAL_KEY),
    ],
)
def test_a_virtual_key_anywhere_else_is_refused(name: bytes, value: bytes) -> None:
    """Whoever the caller is: it never travels."""
    misplaced = (name, value)
    assert reason_of(misplaced) is Reason.MISPLACED_KEY
    for good in ((b"api-key", b"sk-byo"), (b"api-key", VIRTUAL_KEY)):
        assert reason_of(good, misplaced) is Reason.MISPLACED_KEY
        assert reason_of(misplaced, good) is Reason.MISPLACED_KEY


@pytest.mark.parametrize(
    "value", [b"xbai_", b"bai_", b"bai-v1", b"bai_1", b"a%20b", b"100%", b"%25", b"%2525", b"%3d%30"]
)
def test_what_only_looks_like_one_passes_elsewhere(value: bytes) -> None:
    assert find((b"X-Other", value), (b"api-key", b"sk-1")) == byo(b"sk-1")


def percent(raw: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in raw)


@pytest.mark.parametrize(
    "query",
    [
        b"key=" + VIRTUAL_KEY,
        b"a=b&key=" + VIRTUAL_KEY,
        b"key=sk-1&key=" + VIRTUAL_KEY,
        b"a=b;key=" + VIRTUAL_KEY,
        b"other=x" + VIRTUAL_KEY,
        VIRTUAL_KEY,
        VIRTUAL_KEY + b"=1",
        b"key=" + percent(VIRTUAL_KEY),
        b"key=" + percent(VIRTUAL_KEY).lower(),
        b"key=" + VIRTUAL_KEY.replace(b"_", b"%5F"),
        b"k%65y%3D" + VIRTUAL_KEY.replace(b"b", b"%62", 1),
        b"key=bai_",
        b"key=bai_x",
        b"a=1&b=%62ai_x",
    ],
)
def test_a_virtual_key_in_the_query_is_refused(query: bytes) -> None:
    for pair in ((b"Authorization", b"Bearer " + VIRTUAL_KEY), (b"x-api-key", b"sk-1")):
        assert reason_of(pair, target=PATH + b"?" + query) is Reason.MISPLACED_KEY
    assert reason_of(target=PATH + b"?" + query) is Reason.MISPLACED_KEY


def test_a_virtual_key_in_the_path_is_refused() -> None:
    for path in (b"/openai/v1/models/" + VIRTUAL_KEY, b"/openai/v1/models/%62" + VIRTUAL_KEY[1:]):
        assert reason_of((b"x-api-key", b"sk-1"), target=path) is Reason.MISPLACED_KEY


@pytest.mark.parametrize("query", [b"key=AIza", b"a=xbai_", b"%", b"a=%zz", b"q=bai-v1", b"bai_x=1"])
def test_other_queries_are_none_of_our_business(query: bytes) -> None:
    assert find((b"x-api-key", b"sk-1"), target=PATH + b"?" + query) == byo(b"sk-1")


def base64_of(raw: bytes, before: int) -> bytes:
    return base64.b64encode(b"u" * before + raw)


SPELLINGS = {
    "plain": VIRTUAL_KEY,
    "upper case": VIRTUAL_KEY.upper(),
    "capitals": b"Bai_V" + VIRTUAL_KEY[5:],
    "percent": percent(VIRTUAL_KEY),
    "percent of one letter": b"b%61i_v" + VIRTUAL_KEY[5:],
    "percent of a capital": b"%42AI%5fV" + VIRTUAL_KEY[5:],
    "percent twice": b"b%2561i_v" + VIRTUAL_KEY[5:],
    "percent four times": b"b%25252561i_v" + VIRTUAL_KEY[5:],
    "percent without end": b"b%2525252525252561i_v" + VIRTUAL_KEY[5:],
    "percent of everything, twice": percent(percent(VIRTUAL_KEY)),
    "hexadecimal": VIRTUAL_KEY.hex().encode(),
    "hexadecimal, upper case": VIRTUAL_KEY.hex().upper().encode(),
    **{f"base64 at {n}": base64_of(VIRTUAL_KEY, n) for n in range(5)},
    "base64 for URLs": base64.urlsafe_b64encode(b"user:" + VIRTUAL_KEY).rstrip(b"="),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_virtual_key_passes(spelling: str) -> None:
    text = SPELLINGS[spelling]
    for pair in (
        (b"X-Other", b"a " + text),
        (b"Cookie", b"a=" + text + b"; b=1"),
        (b"Authorization", b"Basic " + text),
        (b"api-key", b"sk-" + text),
    ):
        assert reason_of(pair, (b"x-api-key", b"sk-1")) is Reason.MISPLACED_KEY
        assert reason_of(pair, (b"x-goog-api-key", VIRTUAL_KEY)) is Reason.MISPLACED_KEY
    assert reason_of((b"x-api-key", b"sk-1"), target=PATH + b"/" + text) is Reason.MISPLACED_KEY
    assert reason_of((b"x-api-key", b"sk-1"), target=PATH + b"?a=" + text) is Reason.MISPLACED_KEY


TOKENS = {name: text for name, text in SPELLINGS.items() if b"/" not in text and b"=" not in text}


@pytest.mark.parametrize("spelling", TOKENS)
@pytest.mark.parametrize("before", [b"", b"x-", b"X-Amz-Meta-"])
def test_a_virtual_key_in_a_name_or_as_the_method_is_refused(spelling: str, before: bytes) -> None:
    text = before + TOKENS[spelling]
    for good in (b"sk-1", VIRTUAL_KEY):
        pairs = [(b"x-api-key", good)]
        refused = find_credential(Headers.of([*pairs, (text, b"1")]), PATH, b"GET")
        assert isinstance(refused, Rejection)
        assert refused.reason is Reason.MISPLACED_KEY
        refused = find_credential(Headers.of(pairs), PATH, text)
        assert isinstance(refused, Rejection)
        assert refused.reason is Reason.MISPLACED_KEY


@pytest.mark.parametrize("text", [b"bai_x", b"BAI_1", b"Bai_"])
def test_a_name_or_method_that_begins_like_one_is_refused(text: bytes) -> None:
    assert reason_of((b"x-api-key", b"sk-1"), (text, b"1")) is Reason.MISPLACED_KEY
    assert isinstance(find_credential(Headers.of([(b"x-api-key", b"sk-1")]), PATH, text), Rejection)
    for name in (b"x-" + text, b"dubai_region"):
        assert find((b"x-api-key", b"sk-1"), (name, b"1")) == byo(b"sk-1")


@pytest.mark.parametrize("token", [b"BAI_V1.1.a.b", b"Bai_x", b"BAI_"])
def test_a_credential_in_other_letters_is_not_passed_on(token: bytes) -> None:
    assert reason_of((b"x-api-key", token)) is Reason.MISPLACED_KEY
    assert reason_of((b"Authorization", b"Bearer " + token)) is Reason.MISPLACED_KEY


def test_one_key_on_several_lines_is_in_its_place_and_a_copy_elsewhere_is_not() -> None:
    twice = [(b"x-api-key", VIRTUAL_KEY), (b"Authorization", b"Bearer " + VIRTUAL_KEY)]
    assert find(*twice) == managed(VIRTUAL_KEY)
    for at in range(3):
        pairs = [*twice[:at], (b"X-Copy", VIRTUAL_KEY), *twice[at:]]
        assert reason_of(*pairs) is Reason.MISPLACED_KEY


def test_a_credential_does_not_show_itself() -> None:
    assert repr(managed(b"MARKER")) == "Credential(managed=True)"
    assert "MARKER" not in repr(byo(b"MARKER", b"MARKER"))


NAMES = st.sampled_from([*sorted(CREDENTIAL_HEADERS), b"x-other", b"cookie"])
VALUES = st.lists(
    st.sampled_from([b"Bearer", b"bearer", b" ", b"\t", b"sk-1", b"bai_v", b"bai_", VIRTUAL_KEY, b"Basic", b","]),
    max_size=4,
).map(lambda parts: b"".join(parts).strip(b" \t"))


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_no_virtual_key_passes_as_byo(pairs: list[tuple[bytes, bytes]]) -> None:
    """Whatever stands where: either it is the caller's one managed credential, or it is refused."""
    found = find(*pairs)
    carries_key = any(b"bai_v" in value for _, value in pairs)
    if isinstance(found, Credential) and found.managed:
        assert found.value.startswith(b"bai_")
        for name, value in pairs:
            assert b"bai_v" not in value or (name in CREDENTIAL_HEADERS and value.endswith(found.value))
    elif not isinstance(found, Rejection):
        assert not carries_key
        if found is not None:
            assert not any(token.startswith(b"bai_") for token in (found.value, *found.others))


_SPELT: Final = (
    *(
        b"bai_v",
        b"BAI_",
        b"bai_",
        b"%62ai_v",
        b"b%61i_v",
        b"=bai_",
        b"=%62ai%5f",
        b"6261695f76",
        b"%2562%61",
        b"i_v1.1.x",
    ),
    *(base64.b64encode(bytes(before) + b"bai_v1.1.x") for before in range(3)),
)
_texts = st.lists(st.sampled_from((*_SPELT, b"%", b"%3", b"1", b"/", b"x")), max_size=3).map(b"".join)
_names = st.sampled_from((b"authorization", b"x-api-key", b"api-key", b"x-a")) | _texts.map(lambda text: b"x-" + text)


@settings(max_examples=500, deadline=None)
@given(
    fields=st.lists(
        st.tuples(
            _names | _texts.map(lambda text: text or b"x"),
            st.tuples(st.sampled_from((b"", b"Bearer ", VIRTUAL_KEY)), _texts).map(b"".join),
        ),
        max_size=4,
    ),
    target=_texts,
    method=st.sampled_from((b"GET", b"bai_", b"b%61i_v")),
)
def test_one_look_at_all_fields_finds_what_a_look_at_each_would(
    fields: list[tuple[bytes, bytes]], target: bytes, method: bytes
) -> None:
    headers = Headers.of(fields)
    found = credentials._misplaced(headers, b"/" + target, method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "_all_but_keys", lambda *_: b"bai_v")
        assert credentials._misplaced(headers, b"/" + target, method) == found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"%", b"%%", b"%6", b"%61", b"2", b"f", b"g", b"%ff", b"x%0"]), max_size=12).map(b"".join)
)
def test_percent_codes_decode_as_in_the_standard_library(text: bytes) -> None:
    assert credentials._decoded(text) == unquote_to_bytes(text)
