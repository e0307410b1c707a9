"""Virtual keys: one spelling each, verified under the right key or refused with the right fault."""

import base64
import copy
import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aigw_core.keys
from aigw_core.keys import (
    FINGERPRINT_SEED_SIZE_MIN,
    FINGERPRINT_SIZE,
    TOKEN_SIZE_MAX,
    KeyFault,
    KeyRing,
    ParsedKey,
    VirtualKey,
    VirtualKeyError,
    fingerprint,
    is_managed,
    mint_virtual_key,
    parse_public_key,
    parse_virtual_key,
    public_key_of,
)
from aigw_core.secrets import Secret

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
OWN = json.loads((Path(__file__).parent.parent / "data" / "key_vectors.json").read_text())
SEEDS = {int(kid): Secret(bytes.fromhex(seed)) for kid, seed in OWN["seeds_hex"].items()}
RING_KEYS = {kid: public_key_of(seed) for kid, seed in SEEDS.items()}
KID = 3
FINGERPRINT = bytes(range(32))
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

Case = dict[str, Any]


def mint(tenant_id: int = 1001, vpc_id: int = 17, key_id: int | None = None, kid: int = KID) -> bytes:
    token = mint_virtual_key(SEEDS[KID], kid=kid, tenant_id=tenant_id, vpc_id=vpc_id, key_id=key_id)
    return token.encode()


def verdict(ring: KeyRing, token: bytes) -> tuple[str, VirtualKey | None]:
    if not is_managed(token):
        return "byo", None
    try:
        return "ok", ring.verify(parse_virtual_key(token), FINGERPRINT)
    except VirtualKeyError as error:
        return error.fault.value, None


def fault_of(token: bytes) -> KeyFault:
    with pytest.raises(VirtualKeyError) as caught:
        parse_virtual_key(token)
    return caught.value.fault


def check_case(ring: KeyRing, case: Case) -> None:
    got, virtual_key = verdict(ring, case["token"].encode())
    if case["verdict"] == "bad_version_or_malformed":
        assert got in ("bad_version", "malformed")
    else:
        assert got == case["verdict"]
    if got == "ok":
        assert virtual_key is not None
        version = 1 if case["key_id"] is None else 2
        assert dataclasses.astuple(virtual_key) == (
            version,
            case["kid"],
            case["tenant_id"],
            case["vpc_id"],
            case["key_id"],
        )


# --- vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", OWN["cases"], ids=lambda case: case["name"])
def test_own_vectors(case: Case) -> None:
    check_case(KeyRing(RING_KEYS), case)


def test_own_vectors_tell_all_verdicts() -> None:
    assert {case["verdict"] for case in OWN["cases"]} == {"ok", *(fault.value for fault in KeyFault)}


def test_own_vectors_are_what_minting_gives() -> None:
    minted = [case for case in OWN["cases"] if case["verdict"] == "ok"]
    assert len(minted) == 8
    for case in minted:
        ids = {name: case[name] for name in ("kid", "tenant_id", "vpc_id", "key_id")}
        assert mint_virtual_key(SEEDS[case["kid"]], **ids) == case["token"]


def test_public_keys_are_those_of_rfc_8032() -> None:
    """RFC 8032 section 7.1, tests 1 and 2."""
    for kid, public_key in OWN["public_keys_hex"].items():
        assert public_key_of(SEEDS[int(kid)]).hex() == public_key


def test_reference_vectors() -> None:
    corpus = os.environ.get("AIGW_CORPUS")
    if corpus is None:
        pytest.skip("AIGW_CORPUS is not set: the reference key vectors are beside the corpus")
    path = Path(corpus).parent / "facts" / "key_vectors.json"
    if not path.exists():
        pytest.skip("no reference key vectors beside the corpus")
    vectors = json.loads(path.read_text())
    assert len(vectors["cases"]) == 38
    ring = KeyRing({int(kid): key for kid, key in vectors["public_keys_b64"].items()})
    seeds = {int(kid): Secret(bytes.fromhex(seed)) for kid, seed in vectors["signing_seeds_hex"].items()}
    for case in vectors["cases"]:
        check_case(ring, case)
        if case["verdict"] == "ok":
            ids = {name: case[name] for name in ("kid", "tenant_id", "vpc_id", "key_id")}
            assert mint_virtual_key(seeds[case["kid"]], **ids) == case["token"]


def test_development_key() -> None:
    seed = Secret(bytes([7]) * 32)
    assert base64.b64encode(public_key_of(seed)) == b"6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="


# --- parsing -----------------------------------------------------------------------------------------------

u64 = st.integers(0, U64_MAX)


@settings(max_examples=60)
@given(st.integers(0, U32_MAX), u64, u64, st.none() | u64)
def test_minted_keys_parse_and_verify(kid: int, tenant_id: int, vpc_id: int, key_id: int | None) -> None:
    token = mint(tenant_id, vpc_id, key_id, kid)
    assert len(token) <= TOKEN_SIZE_MAX
    parsed = parse_virtual_key(token)
    expected = VirtualKey(1 if key_id is None else 2, kid, tenant_id, vpc_id, key_id)
    assert parsed.claimed == expected
    assert token == parsed.signed_text + b"." + base64.urlsafe_b64encode(parsed.signature).rstrip(b"=")
    assert KeyRing({kid: RING_KEYS[KID]}).verify(parsed, FINGERPRINT) == expected


def test_the_longest_token_is_the_limit() -> None:
    longest = mint(U64_MAX, U64_MAX, U64_MAX, U32_MAX)
    assert len(longest) == TOKEN_SIZE_MAX
    assert parse_virtual_key(longest).claimed.kid == U32_MAX
    assert fault_of(longest + b"A") is KeyFault.MALFORMED


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text("bai_v12.AQgw0-", max_size=160).map(str.encode))
def test_no_bytes_raise_anything_else(tail: bytes) -> None:
    for token in (tail, b"bai_" + tail, b"bai_v1.3." + tail, mint()[:-20] + tail):
        try:
            parsed = parse_virtual_key(token)
        except VirtualKeyError as error:
            assert error.fault in (KeyFault.MALFORMED, KeyFault.BAD_VERSION)  # noqa: PT017 - both ways count
        else:
            assert token.startswith((b"bai_v1.", b"bai_v2."))
            encoded = base64.urlsafe_b64encode(parsed.signature).rstrip(b"=")
            assert parsed.signed_text + b"." + encoded == token


@settings(max_examples=200)
@given(st.data())
def test_no_other_spelling_of_a_token_is_accepted(data: st.DataObject) -> None:
    token = mint(key_id=data.draw(st.none() | st.just(9)))
    at = data.draw(st.integers(0, len(token)))
    edit = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    edited = token[:at] + (b"" if edit == "delete" else byte) + token[at + (edit != "insert") :]
    got, _ = verdict(KeyRing(RING_KEYS), edited)
    assert (got == "ok") is (edited == token)


@pytest.mark.parametrize("part", [2, 3])
def test_exactly_the_canonical_last_characters_pass(part: int) -> None:
    parts = mint().split(b".")
    passed = bytearray()
    for last in ALPHABET:
        changed = parts.copy()
        changed[part] = changed[part][:-1] + bytes([last])
        try:
            parse_virtual_key(b".".join(changed))
        except VirtualKeyError:
            continue
        passed.append(last)
    assert bytes(passed) == b"AQgw"


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        (b"bai_v1." + b"A" * 65_536, KeyFault.MALFORMED),
        (b"bai_" + b"v" * 65_536, KeyFault.MALFORMED),
        (b"bai_v" + b"1" * 65_536, KeyFault.MALFORMED),
        (b"bai_v1." + b"1" * 65_536, KeyFault.MALFORMED),
        (b"bai_v3." + b"A" * 65_536, KeyFault.BAD_VERSION),
        (b"bai_v1.\xb2." + mint().split(b".", 2)[2], KeyFault.MALFORMED),
        (b"", KeyFault.MALFORMED),
        (b"sk-ant-x", KeyFault.MALFORMED),
    ],
    ids=["body", "letters", "version digits", "kid digits", "version 3", "latin-1 digit", "empty", "foreign"],
)
def test_faults_of_odd_sizes(token: bytes, fault: KeyFault) -> None:
    assert fault_of(token) is fault


def test_only_the_exact_prefix_is_managed() -> None:
    assert [is_managed(t) for t in (b"bai_", b"bai_x", b"bai", b"BAI_v1", b" bai_v1", b"", b"sk-bai_")] == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]


def test_errors_and_reprs_never_show_the_token() -> None:
    token = mint()
    parsed = parse_virtual_key(token)
    for part in token.split(b".")[2:]:
        assert part.decode() not in repr(parsed)
    assert repr(parsed.signature) not in repr(parsed)
    with pytest.raises(VirtualKeyError) as caught:
        KeyRing({}).verify(parsed, FINGERPRINT)
    assert str(caught.value) == "unknown_kid"
    assert caught.value.args == ("unknown_kid",)
    with pytest.raises(VirtualKeyError) as caught:
        parse_virtual_key(token + b"x")
    assert str(caught.value) == "malformed"
    assert caught.value.__context__ is None


def test_errors_survive_copy_and_pickle() -> None:
    error = VirtualKeyError(KeyFault.BAD_VERSION)
    assert copy.copy(error).fault is KeyFault.BAD_VERSION
    assert pickle.loads(pickle.dumps(error)).fault is KeyFault.BAD_VERSION


# --- minting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "largest"), [("kid", U32_MAX), ("tenant_id", U64_MAX), ("vpc_id", U64_MAX), ("key_id", U64_MAX)]
)
def test_ids_out_of_range_are_not_minted(name: str, largest: int) -> None:
    ids = {"kid": 1, "tenant_id": 1, "vpc_id": 1, "key_id": 1}
    assert mint_virtual_key(SEEDS[KID], **{**ids, name: largest}).startswith("bai_v2.")
    assert mint_virtual_key(SEEDS[KID], **{**ids, name: 0}).startswith("bai_v2.")
    for outside in (-1, largest + 1):
        with pytest.raises(ValueError, match=rf"^{name} is from 0 to {largest}$"):
            mint_virtual_key(SEEDS[KID], **{**ids, name: outside})


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_seeds_of_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes") as caught:
        mint_virtual_key(Secret(b"\x5a" * size), kid=1, tenant_id=1, vpc_id=1)
    assert "Z" not in str(caught.value)
    with pytest.raises(ValueError, match="32 bytes"):
        public_key_of(Secret(b"\x5a" * size))


# --- public keys -------------------------------------------------------------------------------------------

# A key whose base64 has a plus, so that the two alphabets spell it differently.
DEVELOPMENT_KEY = public_key_of(Secret(bytes([7]) * 32))
STANDARD = base64.b64encode(DEVELOPMENT_KEY).decode()
URL = base64.urlsafe_b64encode(DEVELOPMENT_KEY).decode()


@pytest.mark.parametrize(
    "text",
    [
        DEVELOPMENT_KEY,
        STANDARD,
        URL,
        STANDARD.rstrip("="),
        URL.rstrip("="),
        f" \t{STANDARD}\r\n",
        URL.encode() + b"\n",
        STANDARD.encode(),
    ],
)
def test_public_key_spellings(text: str | bytes) -> None:
    assert STANDARD != URL
    assert parse_public_key(text) == DEVELOPMENT_KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        b"",
        " ",
        DEVELOPMENT_KEY[:31],
        DEVELOPMENT_KEY + b"\x00",
        DEVELOPMENT_KEY.hex(),
        STANDARD + "=",
        STANDARD + "A",
        STANDARD[:-2],
        STANDARD[:-2] + "x=",
        STANDARD[:10] + "\n" + STANDARD[10:],
        STANDARD.replace("+", "-", 1),
        "\u00a0" + STANDARD,
        "\u0661" + STANDARD[1:],
        "A" * 65_536,
    ],
)
def test_texts_that_are_no_public_key(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="32 raw bytes or their base64"):
        parse_public_key(text)


@pytest.mark.parametrize(
    "encoded",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        # Not canonical: y = p + 1 is the identity again.
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        # On no point of the curve.
        "0200000000000000000000000000000000000000000000000000000000000000",
    ],
)
def test_points_that_are_no_public_key(encoded: str) -> None:
    raw = bytes.fromhex(encoded)
    for text in (raw, base64.b64encode(raw), base64.b64encode(raw).decode()):
        with pytest.raises(ValueError, match="prime-order subgroup"):
            parse_public_key(text)
    with pytest.raises(ValueError, match=r"^kid 5: .*prime-order subgroup"):
        KeyRing({5: raw})


def test_public_key_errors_do_not_quote_what_was_pasted() -> None:
    pasted = "bai_v1.seed-pasted-by-mistake"
    with pytest.raises(ValueError, match="base64") as caught:
        KeyRing({1: pasted})
    assert "pasted" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- the ring ----------------------------------------------------------------------------------------------


def tagged(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_ring_knows_its_kids() -> None:
    ring = KeyRing(RING_KEYS)
    assert len(ring) == 2
    assert ring.kids == {3, U32_MAX}
    empty = KeyRing({})
    assert len(empty) == 0
    assert empty.kids == frozenset()
    assert verdict(empty, mint())[0] == "unknown_kid"


@pytest.mark.parametrize("kid", [-1, U32_MAX + 1])
def test_ring_refuses_kids_outside_u32(kid: int) -> None:
    with pytest.raises(ValueError, match=r"^kid is from 0 to 4294967295$"):
        KeyRing({kid: DEVELOPMENT_KEY})


def test_ring_is_not_changed_by_its_argument() -> None:
    keys: dict[int, bytes | str] = {KID: RING_KEYS[KID]}
    ring = KeyRing(keys)
    del keys[KID]
    assert verdict(ring, mint())[0] == "ok"


def test_verified_keys_are_found_without_crypto(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(RING_KEYS)
    assert ring.lookup(FINGERPRINT) is None
    virtual_key = ring.verify(parse_virtual_key(mint()), FINGERPRINT)

    def no_crypto(*_: object) -> bytes:
        raise AssertionError("a cached key was verified again")

    monkeypatch.setattr(aigw_core.keys, "crypto_sign_open", no_crypto)
    assert ring.lookup(FINGERPRINT) is virtual_key
    assert ring.lookup(tagged(1)) is None


def test_failures_never_enter_the_cache_and_evict_nobody() -> None:
    ring = KeyRing(RING_KEYS, cache_max=1)
    good = ring.verify(parse_virtual_key(mint()), tagged(0))
    for number, case in enumerate(OWN["cases"], start=1):
        if case["verdict"] in ("unknown_kid", "bad_signature"):
            with pytest.raises(VirtualKeyError):
                ring.verify(parse_virtual_key(case["token"].encode()), tagged(number))
            assert ring.lookup(tagged(number)) is None
    assert ring.lookup(tagged(0)) is good
    assert ring.cached == 1


def test_the_cache_is_bounded_and_drops_the_oldest() -> None:
    ring = KeyRing(RING_KEYS, cache_max=3)
    parsed = [parse_virtual_key(mint(tenant_id=number)) for number in range(4)]
    for number in range(3):
        ring.verify(parsed[number], tagged(number))
    assert [ring.lookup(tagged(n)) for n in range(3)] == [p.claimed for p in parsed[:3]]
    ring.verify(parsed[1], tagged(1))
    assert ring.cached == 3
    ring.verify(parsed[3], tagged(3))
    assert ring.cached == 3
    assert [ring.lookup(tagged(n)) for n in range(4)] == [None, *(p.claimed for p in parsed[1:])]


def test_the_cache_holds_65536_keys_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aigw_core.keys, "_signature_holds", lambda parsed, public_key: True)
    ring, parsed = KeyRing(RING_KEYS), parse_virtual_key(mint())
    for number in range(65_537):
        ring.verify(parsed, number.to_bytes(FINGERPRINT_SIZE))
    assert ring.cached == 65_536


def test_the_cache_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KeyRing(RING_KEYS, cache_max=0)


def test_a_new_ring_remembers_nothing() -> None:
    KeyRing(RING_KEYS).verify(parse_virtual_key(mint()), FINGERPRINT)
    assert KeyRing(RING_KEYS).lookup(FINGERPRINT) is None


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_whole_fingerprints_are_cached(size: int) -> None:
    ring = KeyRing(RING_KEYS)
    with pytest.raises(ValueError, match="32 bytes"):
        ring.verify(parse_virtual_key(mint()), b"f" * size)
    assert ring.cached == 0


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signatures_of_other_sizes_do_not_shift_the_text(size: int) -> None:
    parsed = parse_virtual_key(mint())
    # With 63 bytes of signature the text's first byte would stand in for the last one.
    shifted = (parsed.signature + parsed.signed_text)[:size]
    forged = ParsedKey(parsed.claimed, (parsed.signature + parsed.signed_text)[size:], shifted)
    with pytest.raises(VirtualKeyError) as caught:
        KeyRing(RING_KEYS).verify(forged, FINGERPRINT)
    assert caught.value.fault is KeyFault.BAD_SIGNATURE


# --- fingerprints ------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(min_size=16, max_size=64))
def test_fingerprints_follow_credential_and_seed(left: bytes, right: bytes, seed: bytes) -> None:
    assert len(fingerprint(left, seed)) == FINGERPRINT_SIZE
    assert (fingerprint(left, seed) == fingerprint(right, seed)) is (left == right)
    assert fingerprint(left, seed) != fingerprint(left, bytes([seed[0] ^ 1]) + seed[1:])


def test_fingerprint_is_keyed_blake2b() -> None:
    """The expected value was computed with OpenSSL's BLAKE2BMAC, output size 32."""
    expected = "d63a32d3e44738d7907f964316c241adaba0abfeabc32349677578a15a203f7f"
    assert fingerprint(b"abc", bytes(range(32))).hex() == expected


@pytest.mark.parametrize("size", [0, FINGERPRINT_SEED_SIZE_MIN - 1, 65])
def test_fingerprint_seeds_of_other_sizes_are_refused(size: int) -> None:
    assert len(fingerprint(b"x", b"s" * FINGERPRINT_SEED_SIZE_MIN)) == 32
    with pytest.raises(ValueError):  # noqa: PT011 - two libraries' texts, one type
        fingerprint(b"x", b"s" * size)


# --- a ring that follows another ---------------------------------------------------------------------------


def verified(ring: KeyRing, kid: int, number: int) -> bytes:
    """The fingerprint of a fresh key that the ring has verified."""
    token = mint_virtual_key(SEEDS.get(kid, SEEDS[KID]), kid=kid, tenant_id=1, vpc_id=2, key_id=number).encode()
    mark = fingerprint(token, bytes(16))
    ring.verify(parse_virtual_key(token), mark)
    return mark


def test_what_verified_is_known_to_a_ring_with_the_same_keys() -> None:
    old, new = KeyRing(RING_KEYS), KeyRing(dict(reversed(RING_KEYS.items())))
    marks = [verified(old, kid, 1) for kid in RING_KEYS]
    new.take_over(old)
    assert [found.kid for mark in marks if (found := new.lookup(mark))] == list(RING_KEYS)
    # Both hold the same keys, so what the older one still verifies for a running exchange is known as well.
    late = verified(old, KID, 2)
    assert new.lookup(late) is not None


def test_a_kid_that_is_gone_or_has_another_public_key_is_forgotten() -> None:
    gone, replaced, kept = 101, 102, KID
    older = {**RING_KEYS, gone: RING_KEYS[KID], replaced: RING_KEYS[KID]}
    old = KeyRing(older)
    marks = {kid: verified(old, kid, 1) for kid in (gone, replaced, kept)}
    keys = {kid: key for kid, key in older.items() if kid != gone}
    new = KeyRing({**keys, replaced: public_key_of(Secret(bytes(32)))})
    new.take_over(old)
    assert [new.lookup(marks[kid]) is not None for kid in (gone, replaced, kept)] == [False, False, True]
    # What the older one goes on to verify is its own affair.
    assert new.lookup(verified(old, gone, 2)) is None
    assert new.lookup(verified(old, kept, 2)) is None


def test_a_new_kid_leaves_the_others_known() -> None:
    old = KeyRing({KID: RING_KEYS[KID]})
    mark = verified(old, KID, 1)
    new = KeyRing(RING_KEYS)
    new.take_over(old)
    assert new.lookup(mark) is not None
    assert all(new.knows(kid) for kid in RING_KEYS)
    assert not new.knows(max(RING_KEYS) + 1)


@pytest.mark.parametrize(("smaller", "expected"), [(2, [False, True, True]), (3, [True, True, True])])
def test_a_smaller_cache_takes_over_the_youngest(smaller: int, expected: list[bool]) -> None:
    old, new = KeyRing(RING_KEYS, cache_max=4), KeyRing(RING_KEYS, cache_max=smaller)
    marks = [verified(old, KID, number) for number in range(3)]
    new.take_over(old)
    assert [new.lookup(mark) is not None for mark in marks] == expected
    assert new.cached == min(3, smaller)


def test_what_a_ring_knows_of_its_own_stays_when_it_takes_over() -> None:
    old, new = KeyRing(RING_KEYS, cache_max=2), KeyRing(RING_KEYS, cache_max=3)
    theirs, own = [verified(old, KID, number) for number in range(2)], [verified(new, KID, n) for n in (7, 8)]
    new.take_over(old)
    assert [new.lookup(mark) is not None for mark in (*theirs, *own)] == [False, True, True, True]
