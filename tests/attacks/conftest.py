"""The servers of the end-to-end tests, for attacks."""

from __future__ import annotations

from tests.e2e.conftest import _no_faults, backend, fleet, gateway, hurried, limited, many, provider, start

__all__ = ["_no_faults", "backend", "fleet", "gateway", "hurried", "limited", "many", "provider", "start"]
