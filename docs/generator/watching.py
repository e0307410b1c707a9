"""The metrics of the admin listener, from their table, and the alerts from their rules."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from aigw_anyio.metrics.families import FAMILIES
from docs.generator.markdown import code, table


def metrics() -> str:
    """Name, kind, labels and help text of every family."""
    rows = [
        (code(family.name), family.kind.value, ", ".join(map(code, family.labels)), family.text)
        for family in FAMILIES.values()
    ]
    return table(("name", "kind", "labels", "meaning"), rows)


def alerts() -> str:
    """Name, severity, waiting time, what has happened and what to do."""
    path = Path(__file__).resolve().parent.parent.parent / "deploy" / "prometheus" / "alerts.yml"
    rows = []
    for group in yaml.safe_load(path.read_text())["groups"]:
        for rule in group["rules"]:
            told = rule["annotations"]
            names = (code(rule["alert"]), rule["labels"]["severity"], rule.get("for", "at once"))
            rows.append((*names, *(_without_templates(told[part]) for part in ("summary", "action"))))
    return table(("alert", "severity", "after", "it says", "do"), rows)


def _without_templates(text: str) -> str:
    """``{{ $labels.provider }}`` reads PROVIDER, ``{{ $value | humanize }}`` N."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: found[1].upper(), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", "N", text)
