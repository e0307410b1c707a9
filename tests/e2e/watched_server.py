"""A real frontend process in which names under ``.invalid`` are not found, as they should be, without asking anybody.

Resolvers may ask the network even for these (RFC 6761 §6.4); nothing else is replaced.
"""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any, Final

_ask: Final = socket.getaddrinfo


def _getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
    if str(host).endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _ask(host, *rest, **options)


def main() -> int:
    socket.getaddrinfo = _getaddrinfo
    frontend = importlib.import_module(f"aigw_{os.environ['TEST_BACKEND']}")
    return int(frontend.main([]))


if __name__ == "__main__":
    raise SystemExit(main())
