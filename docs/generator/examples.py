"""The programs in ``examples/``, whole, as blocks that a page can go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

EXAMPLES: Final = Path(__file__).resolve().parent.parent.parent / "examples"


def names() -> list[str]:
    """Their names in words."""
    return sorted(path.stem.replace("_", " ") for path in EXAMPLES.glob("*.py") if path.stem != "__init__")


def example(name: str) -> str:
    """One of them, saved under its own name when the page is run."""
    path = EXAMPLES / f"{name.replace(' ', '_')}.py"
    return f"<!-- run: file {path.name} -->\n```python\n{path.read_text().strip()}\n```"
