"""What the checks find, for people and for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from aigw_anyio.logs import escaped


class Verdict(StrEnum):
    """``warning`` works, but hardly as meant; ``wrong`` does not work; ``skipped`` could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. No text holds a secret, or anything that a peer sent but its status and dates."""

    check: str
    """``configuration``, ``limits``, ``listener``, ``disk``, ``dns``, ``connect``, ``tls``, ``credential``, ``clock``,
    ``nats``."""
    subject: str
    """What it is about: a provider, a setting, a bucket."""
    verdict: Verdict
    what: str
    why: str = ""
    """The cause, where it is known."""
    fix: str = ""
    """What to do about it."""


def ok(check: str, subject: str, what: str) -> Finding:
    return Finding(check, subject, Verdict.OK, what)


def warning(check: str, subject: str, what: str, *, why: str = "", fix: str = "") -> Finding:
    return Finding(check, subject, Verdict.WARNING, what, why, fix)


def wrong(check: str, subject: str, what: str, *, why: str = "", fix: str) -> Finding:
    return Finding(check, subject, Verdict.WRONG, what, why, fix)


def skipped(check: str, subject: str, what: str) -> Finding:
    return Finding(check, subject, Verdict.SKIPPED, what)


def as_text(findings: Sequence[Finding]) -> str:
    """One line for each, with its cause and its cure below it where something is not as it should be."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        subject = escaped(finding.subject).ljust(width)
        lines.append(f"{finding.verdict.value:8} {finding.check:13} {subject}  {escaped(finding.what)}")
        told = (("why:", finding.why), ("do:", finding.fix))
        lines += [f"{'':8} {label:4} {escaped(text)}" for label, text in told if text]
    lines.append(summary(findings))
    return "\n".join(lines) + "\n"


def summary(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    order = (Verdict.WRONG, Verdict.WARNING, Verdict.OK, Verdict.SKIPPED)
    told = [f"{counts[verdict]} {verdict.value}" for verdict in order if counts[verdict]]
    return ", ".join(told) or "nothing was looked at"


def as_json(findings: Sequence[Finding], exit_code: int) -> str:
    """One object: ``status`` (the worst verdict), ``exit_code``, and ``findings`` with all members of each."""
    document = {"status": worst(findings).value, "exit_code": exit_code, "findings": [asdict(f) for f in findings]}
    return json.dumps(document, indent=2) + "\n"


def worst(findings: Iterable[Finding]) -> Verdict:
    found = {finding.verdict for finding in findings}
    for verdict in (Verdict.WRONG, Verdict.WARNING):
        if verdict in found:
            return verdict
    return Verdict.OK
