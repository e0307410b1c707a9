"""An operator, an account and users of a server in operator mode: real JWTs, signed as the server wants them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import nkeys  # type: ignore[import-untyped]  # has no types
from nacl.signing import SigningKey

_OPERATOR: Final = nkeys.PREFIX_BYTE_OPERATOR
_ACCOUNT: Final = nkeys.PREFIX_BYTE_ACCOUNT
_USER: Final = nkeys.PREFIX_BYTE_USER


class _Pair:
    def __init__(self, prefix: int) -> None:
        self._key = SigningKey(os.urandom(32))
        self.public = _encoded(bytes([prefix]) + bytes(self._key.verify_key))
        seed = bytes([nkeys.PREFIX_BYTE_SEED | (prefix >> 5), (prefix & 31) << 3]) + bytes(self._key)
        self.seed = _encoded(seed)

    def jwt(self, subject: str, name: str, nats: dict[str, Any], expires: float | None = None) -> str:
        claims = {"iat": int(time.time()), "iss": self.public, "sub": subject, "name": name, "nats": nats}
        if expires is not None:
            claims["exp"] = int(expires)
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        head = _text({"typ": "JWT", "alg": "ed25519-nkey"})
        body = f"{head}.{_text(claims)}"
        return f"{body}.{base64.urlsafe_b64encode(self._key.sign(body.encode()).signature).decode().rstrip('=')}"


def _text(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def _encoded(raw: bytes) -> str:
    crc = 0
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(raw + crc.to_bytes(2, "little")).decode().rstrip("=")


class Operator:
    """With a system account, and one account that may use JetStream."""

    def __init__(self) -> None:
        self._operator, self._account, self._system = _Pair(_OPERATOR), _Pair(_ACCOUNT), _Pair(_ACCOUNT)

    @property
    def config(self) -> str:
        operator = self._operator
        unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        limits = {**unlimited, "wildcards": True, **storage}
        system = operator.jwt(
            self._system.public, "SYS", {"type": "account", "version": 2, "limits": {**unlimited, "wildcards": True}}
        )
        account = operator.jwt(self._account.public, "A", {"type": "account", "version": 2, "limits": limits})
        own = {"type": "operator", "version": 2, "system_account": self._system.public}
        return (
            f"operator: {operator.jwt(operator.public, 'O', own)}\n"
            f"system_account: {self._system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {self._system.public}: {system}, {self._account.public}: {account} }}\n"
        )

    def write_creds(self, path: Path, *, valid_secs: float | None = None) -> None:
        """A user's file, good for so long."""
        user = _Pair(_USER)
        expires = time.time() + valid_secs if valid_secs is not None else None
        jwt = self._account.jwt(
            user.public, "gateway", {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}, expires
        )
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
