"""The metrics of the admin listener, from their table."""

from __future__ import annotations

from aigw_anyio.metrics.families import FAMILIES
from docs.generator.markdown import code, table


def metrics() -> str:
    """Name, kind, labels and help text of every family."""
    rows = [
        (code(family.name), family.kind.value, ", ".join(map(code, family.labels)), family.text)
        for family in FAMILIES.values()
    ]
    return table(("name", "kind", "labels", "meaning"), rows)
