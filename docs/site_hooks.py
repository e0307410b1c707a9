"""What the site needs beside the pages: the roles of our docstrings, as plain code."""

from __future__ import annotations

import re
from typing import Any, Final

_ROLE: Final = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """``:class:`~aigw_core.connection.Connection``` reads Connection; modules keep their full name."""
    return _ROLE.sub(lambda found: f"<code>{_short(found[1])}</code>", html)


def _short(name: str) -> str:
    last = name.rpartition(".")[2]
    return last if last[:1].isupper() else name
