"""Attacks on a running gateway, one file each.

Each file says what the attacker sends and what must happen instead, and shows it with real server processes on both
frontends. `docs/explanation/security.md` names the file that stands behind each promise.
"""
