"""Virtual keys: parse, verify, mint, and the ring of public keys with its cache of verified keys.

A virtual key is the ASCII text `bai_vN.{kid}.{payload}.{signature}`: kid is a u32 in canonical decimal,
payload the unpadded base64url of little-endian u64s (tenant and vpc, in version 2 also a key id), signature
the unpadded base64url of an Ed25519 signature (RFC 8032) over everything before the last dot. Every part has
exactly one spelling, since each spelling would be a rate-limit bucket of its own.
"""

import base64
import binascii
import hashlib
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from aigw_core.secrets import Secret

MANAGED_PREFIX: Final = b"bai_"
SEED_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
FINGERPRINT_SIZE: Final = 32
# blake2b without a key is a public function, and one with a guessable key is as good as public.
FINGERPRINT_SEED_SIZE_MIN: Final = 16
# Entries of a KeyRing's cache: about 350 bytes each, so 23 MB when full.
CACHE_MAX: Final = 65_536
# The longest valid token: version 2 with a kid of ten digits. Nothing longer is looked at.
TOKEN_SIZE_MAX: Final = len("bai_v2.") + 10 + 1 + 32 + 1 + 86

_U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1
# A last character out of AQgw leaves the four unused bits of 16 and of 64 encoded bytes zero; 24 bytes fill
# their 32 characters. With the alphabet and the lengths fixed, that makes the encoding canonical.
_TOKEN: Final = re.compile(
    rb"bai_v([12])\.(0|[1-9][0-9]{0,9})"
    rb"\.([A-Za-z0-9_-]{21}[AQgw]|[A-Za-z0-9_-]{32})"
    rb"\.([A-Za-z0-9_-]{85}[AQgw])"
)
_VERSION: Final = re.compile(rb"bai_v(0|[1-9][0-9]{0,9})\.")
_IDS: Final = {1: struct.Struct("<QQ"), 2: struct.Struct("<QQQ")}
_PAYLOAD_CHARS: Final = {1: 22, 2: 32}
# 43 characters hold 32 bytes and two unused bits, which are zero for every fourth character.
_PUBLIC_KEY: Final = re.compile(
    rb"(?:[A-Za-z0-9+/]{42}|[A-Za-z0-9_-]{42})[AEIMQUYcgkosw048]=?",
)
_URL_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


class KeyFault(Enum):
    """Why a virtual key is refused. Told apart for metrics and embedders; callers see one text for all."""

    MALFORMED = "malformed"
    BAD_VERSION = "bad_version"
    UNKNOWN_KID = "unknown_kid"
    BAD_SIGNATURE = "bad_signature"


class VirtualKeyError(ValueError):
    """A virtual key that is refused. Its text is the fault's name, never any part of the token."""

    def __init__(self, fault: KeyFault) -> None:
        super().__init__(fault.value)
        self.fault: Final = fault

    def __reduce__(self) -> tuple[type["VirtualKeyError"], tuple[KeyFault]]:
        return type(self), (self.fault,)


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """What a virtual key states. `vpc_id` is carried into facts and is no access check.

    `key_id` is None in version 1. Ids are u64, `kid` is u32.
    """

    version: int
    kid: int
    tenant_id: int
    vpc_id: int
    key_id: int | None


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A well-formed virtual key whose signature is not checked yet: claims, not facts."""

    claimed: VirtualKey
    signed_text: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def is_managed(credential: bytes) -> bool:
    """Whether the credential claims to be a virtual key; what does and does not verify is refused."""
    return credential.startswith(MANAGED_PREFIX)


def fingerprint(credential: bytes, seed: bytes) -> bytes:
    """The 32-byte keyed BLAKE2b (RFC 7693) of a raw credential: what caches and limiters know it by.

    `seed` is 16 to 64 random bytes of this deployment, the same in all workers that share a limiter.
    Raises ValueError for any other length.
    """
    if len(seed) < FINGERPRINT_SEED_SIZE_MIN:
        raise ValueError(f"a fingerprint seed has at least {FINGERPRINT_SEED_SIZE_MIN} bytes")
    return hashlib.blake2b(credential, digest_size=FINGERPRINT_SIZE, key=seed).digest()


def parse_virtual_key(token: bytes) -> ParsedKey:
    """Read a token without checking its signature; the time taken does not grow with the token.

    Raises VirtualKeyError: BAD_VERSION for `bai_v{n}.…` with another canonical decimal n than 1 or 2,
    MALFORMED for everything else that is no virtual key.
    """
    match = _TOKEN.fullmatch(token) if len(token) <= TOKEN_SIZE_MAX else None
    if match is None:
        raise VirtualKeyError(_shape_fault(token))
    version = int(match[1])
    kid = int(match[2])
    payload = match[3]
    if kid > _U32_MAX or len(payload) != _PAYLOAD_CHARS[version]:
        raise VirtualKeyError(KeyFault.MALFORMED)
    ids: tuple[int, ...] = _IDS[version].unpack(_base64_decoded(payload))
    claimed = VirtualKey(version, kid, ids[0], ids[1], ids[2] if version == 2 else None)
    return ParsedKey(claimed, token[: match.end(3)], _base64_decoded(match[4]))


def mint_virtual_key(seed: Secret, *, kid: int, tenant_id: int, vpc_id: int, key_id: int | None = None) -> str:
    """The token for these ids: version 1, or version 2 where a key id is given.

    Deterministic (RFC 8032): equal arguments give equal tokens. `seed` holds the 32 bytes that RFC 8032
    calls the private key. Raises ValueError for a seed of another length or an id out of range.
    """
    _require_range("kid", kid, _U32_MAX)
    _require_range("tenant_id", tenant_id, _U64_MAX)
    _require_range("vpc_id", vpc_id, _U64_MAX)
    if key_id is None:
        version, payload = 1, _IDS[1].pack(tenant_id, vpc_id)
    else:
        _require_range("key_id", key_id, _U64_MAX)
        version, payload = 2, _IDS[2].pack(tenant_id, vpc_id, key_id)
    signed_text = b"bai_v%d.%d.%s" % (version, kid, _base64url(payload))
    _, signing_key = _keypair(seed)
    signature = crypto_sign(signed_text, signing_key)[:SIGNATURE_SIZE]
    return (signed_text + b"." + _base64url(signature)).decode("ascii")


def public_key_of(seed: Secret) -> bytes:
    """The 32-byte public key of a signing seed. Raises ValueError unless the seed has 32 bytes."""
    public_key, _ = _keypair(seed)
    return public_key


def parse_public_key(text: str | bytes) -> bytes:
    """An Ed25519 public key, given as 32 raw bytes or as base64, to its 32 bytes.

    Base64 may use the standard or the URL alphabet, be padded or not, and stand among ASCII whitespace.
    Raises ValueError for anything else, and for bytes that are no point of the prime-order subgroup in
    canonical form: a key of small order would accept signatures that nobody made.
    """
    # No error quotes its input: what was pasted here by mistake may be the seed.
    if isinstance(text, bytes) and len(text) == PUBLIC_KEY_SIZE:
        raw = text
    else:
        encoded = text.encode("ascii", "replace") if isinstance(text, str) else text
        encoded = encoded.strip()
        if _PUBLIC_KEY.fullmatch(encoded) is None:
            raise ValueError("a public key is 32 raw bytes or their base64, 43 characters without padding")
        raw = _base64_decoded(encoded.removesuffix(b"="))
    if not crypto_core_ed25519_is_valid_point(raw):
        raise ValueError("not an Ed25519 public key: the bytes are no point of the prime-order subgroup")
    return raw


class KeyRing:
    """Public keys by kid, and a bounded cache of the virtual keys that verified under them.

    The cache belongs to the ring. A ring that follows it may take over what still holds; a kid that is taken away
    or gets another public key is refused at once. Only verified keys enter, so strangers cannot evict anyone; when
    it is full the oldest entry goes, and that key costs one more verification, at the next connection that brings
    it. `len()` is the number of kids: an empty ring refuses every virtual key.

    Raises ValueError for a kid outside u32, a public key that `parse_public_key` refuses, or a cache_max
    below 1.
    """

    __slots__ = ("_cache", "_cache_max", "_public_keys")

    def __init__(self, public_keys: Mapping[int, bytes | str], *, cache_max: int = CACHE_MAX) -> None:
        if cache_max < 1:
            raise ValueError("cache_max is at least 1")
        parsed: dict[int, bytes] = {}
        for kid, public_key in public_keys.items():
            _require_range("kid", kid, _U32_MAX)
            try:
                parsed[kid] = parse_public_key(public_key)
            except ValueError as error:
                raise ValueError(f"kid {kid}: {error}") from None
        self._public_keys = parsed
        self._cache_max = cache_max
        # An OrderedDict, because dropping the oldest entry of a large dict walks over all holes before it.
        self._cache: OrderedDict[bytes, VirtualKey] = OrderedDict()

    def __len__(self) -> int:
        return len(self._public_keys)

    @property
    def kids(self) -> frozenset[int]:
        """The kids that this ring knows."""
        return frozenset(self._public_keys)

    @property
    def cached(self) -> int:
        """The number of verified keys in the cache."""
        return len(self._cache)

    def knows(self, kid: int) -> bool:
        """Whether there is a public key to verify with."""
        return kid in self._public_keys

    def take_over(self, older: "KeyRing") -> None:
        """Remember what verified under a ring that this one replaces, where the public key is still the same."""
        if older._public_keys == self._public_keys and older._cache_max == self._cache_max:
            # Whatever verifies under either of them holds for the other, so both may go on with one cache.
            self._cache = older._cache
            return
        same = {kid for kid, key in self._public_keys.items() if older._public_keys.get(kid) == key}
        held = [item for item in older._cache.items() if item[1].kid in same]
        self._cache = OrderedDict([*held[-self._cache_max :], *self._cache.items()])
        while len(self._cache) > self._cache_max:
            self._cache.popitem(last=False)

    def lookup(self, fingerprint: bytes) -> VirtualKey | None:
        """The key that verified under this fingerprint of the whole raw credential, without crypto."""
        return self._cache.get(fingerprint)

    def verify(self, parsed: ParsedKey, fingerprint: bytes) -> VirtualKey:
        """Check the signature (about 60 µs) and remember the key under `fingerprint`.

        `fingerprint` is that of the raw credential that `parsed` was read from. Raises VirtualKeyError with
        UNKNOWN_KID or BAD_SIGNATURE, ValueError for a fingerprint that has not 32 bytes.
        """
        if len(fingerprint) != FINGERPRINT_SIZE:
            raise ValueError(f"a fingerprint has {FINGERPRINT_SIZE} bytes")
        virtual_key = parsed.claimed
        public_key = self._public_keys.get(virtual_key.kid)
        if public_key is None:
            raise VirtualKeyError(KeyFault.UNKNOWN_KID)
        if not _signature_holds(parsed, public_key):
            raise VirtualKeyError(KeyFault.BAD_SIGNATURE)
        cache = self._cache
        cache[fingerprint] = virtual_key
        if len(cache) > self._cache_max:
            cache.popitem(last=False)
        return virtual_key


def _signature_holds(parsed: ParsedKey, public_key: bytes) -> bool:
    # A signature of another length would shift the signed text.
    if len(parsed.signature) != SIGNATURE_SIZE:
        return False
    try:
        crypto_sign_open(parsed.signature + parsed.signed_text, public_key)
    except CryptoError:
        return False
    return True


def _shape_fault(token: bytes) -> KeyFault:
    version = _VERSION.match(token)
    if version is None or version[1] in (b"1", b"2"):
        return KeyFault.MALFORMED
    return KeyFault.BAD_VERSION


def _keypair(seed: Secret) -> tuple[bytes, bytes]:
    raw = seed.reveal()
    if len(raw) != SEED_SIZE:
        raise ValueError(f"a signing seed has {SEED_SIZE} bytes")
    return crypto_sign_seed_keypair(raw)


def _require_range(name: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise ValueError(f"{name} is from 0 to {largest}")


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _base64_decoded(encoded: bytes) -> bytes:
    """Decode either alphabet, unpadded. The caller has checked alphabet, length and unused bits."""
    return binascii.a2b_base64(encoded.translate(_URL_TO_STANDARD) + b"=" * (-len(encoded) % 4))
