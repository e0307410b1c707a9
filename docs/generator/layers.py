"""What each package is for, in its own words, and how large it is."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from docs.generator.markdown import code, table

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PACKAGES: Final = (
    "aigw_core",
    "aigw_core/http1",
    "aigw_core/usage",
    "aigw_core/testing",
    "aigw_anyio",
    "aigw_asyncio",
    "aigw_trio",
)


def layers() -> str:
    """One row for each module: its first sentence."""
    rows = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("*.py")):
            said = ast.get_docstring(ast.parse(path.read_text()))
            if said is not None:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                rows.append([code(name), said.splitlines()[0]])
    return table(["module", "what it is"], rows)
