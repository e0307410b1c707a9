"""What the site needs beside the pages: roles and tables of our docstrings, as HTML."""

from __future__ import annotations

import re
from typing import Any, Final

_TABLE: Final = re.compile(r"<p>={4,} +={4,}\n(.*?)\n={4,} +={4,}</p>", re.DOTALL)
_ROW: Final = re.compile(r"((?:<code>[^<]*</code>(?:, )?)+) +(.*)")
_ROLE: Final = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """``:class:`~aigw_core.connection.Connection``` reads Connection; modules keep their full name."""
    return _TABLE.sub(_table, _ROLE.sub(lambda found: f"<code>{_short(found[1])}</code>", html))


def _table(found: re.Match[str]) -> str:
    """A simple table, as docstrings draw it."""
    rows = [_ROW.fullmatch(line) for line in found[1].splitlines()]
    assert all(rows), "a table of a docstring has code in its first column"
    return f"<table>{''.join(f'<tr><td>{row[1]}</td><td>{row[2]}</td></tr>' for row in rows if row)}</table>"


def _short(name: str) -> str:
    last = name.rpartition(".")[2]
    return last if last[:1].isupper() else name
