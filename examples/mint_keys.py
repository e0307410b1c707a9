"""A control plane: it alone holds the private seed, mints virtual keys, and turns them off again.

The gateway gets public keys and deny entries from here, and nothing else.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

from aigw_core import DenyReason, KeyRing, Secret, fingerprint, mint_virtual_key, parse_virtual_key, public_key_of

SEED_SIZE = 32
"""Bytes of an Ed25519 seed."""


@dataclass
class ControlPlane:
    """Keep the seeds in your secret store; what is kept here in memory stands for it."""

    seeds: dict[int, Secret] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    """Key id → who it was issued to. No key is stored, only what it says."""
    denied: dict[str, str] = field(default_factory=dict)
    """Entries of the deny bucket, as the gateway's feed reads them."""

    def rotate(self) -> int:
        """A new signing key, which signs from now on; its number. Older ones stay valid until they are dropped."""
        kid = max(self.seeds, default=0) + 1
        self.seeds[kid] = Secret(secrets.token_bytes(SEED_SIZE))
        return kid

    def drop(self, kid: int) -> None:
        """Every key that this one has signed is worth nothing, once the gateways have reloaded."""
        del self.seeds[kid]

    def issue(self, owner: str, tenant_id: int, vpc_id: int = 0) -> str:
        """A virtual key, shown to its owner once. Raises ValueError before the first ``rotate``."""
        kid = max(self.seeds)
        key_id = len(self.owners) + 1
        self.owners[key_id] = owner
        return mint_virtual_key(self.seeds[kid], kid=kid, tenant_id=tenant_id, vpc_id=vpc_id, key_id=key_id)

    def revoke(self, key_id: int, reason: DenyReason = DenyReason.FRAUD) -> None:
        """One key; all of a tenant's with ``blackhole.{tenant_id}``."""
        self.denied[f"blackhole.key.{key_id}"] = reason.value

    def signing_keys(self) -> dict[str, str]:
        """The gateway's ``signing_keys`` setting: public, and worthless to whoever steals it."""
        keys = {str(kid): public_key_of(seed) for kid, seed in self.seeds.items()}
        return {kid: base64.b64encode(public).decode() for kid, public in keys.items()}

    def owner_of(self, key: str) -> str | None:
        """Who a key was issued to. Raises VirtualKeyError for what is no key, or none of ours."""
        parsed = parse_virtual_key(key.encode())
        ring = KeyRing({int(kid): public for kid, public in self.signing_keys().items()})
        verified = ring.verify(parsed, fingerprint(key.encode(), secrets.token_bytes(16)))
        return self.owners.get(verified.key_id or 0)
