"""The keys of these tests: one signing key, a fresh virtual key for whoever wants one, a pool key a provider."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Final

from aigw_core.keys import mint_virtual_key, public_key_of
from aigw_core.providers import PROVIDERS
from aigw_core.secrets import Secret

KID: Final = 7
TENANT: Final = 42
DENIED_TENANTS: Final = {"spend": 1402, "fraud": 1403}
_SEED: Final = Secret(bytes([7]) * 32)
_OTHER_SEED: Final = Secret(bytes([8]) * 32)
_numbers = itertools.count(1)


def number() -> int:
    """One that nobody else gets."""
    return next(_numbers)


def virtual_key(tenant: int = TENANT, key_id: int | None = None) -> str:
    """A key that no other test has, so that no other test uses up its rate limit."""
    return mint_virtual_key(_SEED, kid=KID, tenant_id=tenant, vpc_id=3, key_id=number() if key_id is None else key_id)


def forged_key() -> str:
    """Well-formed, signed by somebody else."""
    return mint_virtual_key(_OTHER_SEED, kid=KID, tenant_id=TENANT, vpc_id=3, key_id=number())


def pool_key(provider: str) -> str:
    return f"pool-key-of-{provider}-0a1b2c3d4e5f"


BYO_KEY: Final = "byo-key-9f8e7d6c5b4a"

SIGNING_KEYS: Final = json.dumps({str(KID): base64.b64encode(public_key_of(_SEED)).decode()})
OTHER_SIGNING_KEYS: Final = json.dumps({str(KID): base64.b64encode(public_key_of(_OTHER_SEED)).decode()})
POOL_KEYS: Final = {f"AI_POOL_KEY_{name.upper()}": pool_key(name) for name in PROVIDERS}
