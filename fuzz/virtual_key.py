"""Virtual keys: one spelling each, one error class, and only what was minted verifies."""

from __future__ import annotations

import base64
import struct
from contextlib import suppress
from typing import Final

from aigw_core.keys import (
    KeyRing,
    ParsedKey,
    VirtualKeyError,
    fingerprint,
    mint_virtual_key,
    parse_public_key,
    parse_virtual_key,
    public_key_of,
)
from aigw_core.secrets import Secret

SEED: Final = Secret(bytes([7]) * 32)
TOKENS: Final = (
    b"bai_v1.", b"bai_v2.", b"bai_v3.", b".1.", b".01.", b".4294967296.", b"=", b"-", b"_", b"Q", b"A" * 22,
)  # fmt: skip
_RING: Final = KeyRing({1: public_key_of(SEED)}, cache_max=4)
_HASH_KEY: Final = bytes(16)


def check(data: bytes) -> None:
    with suppress(ValueError):
        assert len(parse_public_key(data)) == 32
    try:
        parsed = parse_virtual_key(data)
    except VirtualKeyError:
        return
    assert _spelt(parsed) == data, "a key has two spellings"
    try:
        key = _RING.verify(parsed, fingerprint(data, _HASH_KEY))
    except VirtualKeyError:
        return
    assert key == parsed.claimed
    minted = mint_virtual_key(SEED, kid=key.kid, tenant_id=key.tenant_id, vpc_id=key.vpc_id, key_id=key.key_id)
    assert minted.encode() == data, "a key verifies that was not minted"


def _spelt(parsed: ParsedKey) -> bytes:
    key = parsed.claimed
    ids = [key.tenant_id, key.vpc_id] + ([] if key.key_id is None else [key.key_id])
    payload = base64.urlsafe_b64encode(struct.pack(f"<{len(ids)}Q", *ids)).rstrip(b"=")
    signature = base64.urlsafe_b64encode(parsed.signature).rstrip(b"=")
    return b"bai_v%d.%d.%b.%b" % (key.version, key.kid, payload, signature)
