"""The metrics of the admin listener, read off its own answer."""

from __future__ import annotations

import re

from aigw_anyio.metrics import exposition
from aigw_anyio.sinks import SinkStats
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter
from aigw_core.policy import Policy
from docs.generator.markdown import code, table


def metrics() -> str:
    """Name, kind, labels and help text of every family."""
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    gateway = Gateway(Policy.default(), entropy=bytes(32), limiter=limiter, now=0.0, wall=0.0)
    gateway.stats.count_fact(_fact())
    gateway.stats.count_byo("openai", 200)
    gateway.stats.count_rejection("BAD_KEY")
    text = exposition(gateway, SinkStats(), "asyncio", 0)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE)
    labels = {name: re.findall(r'(\w+)="', row) for name, row in re.findall(r"^(\w+)(\{.*\})", text, re.MULTILINE)}
    rows = [(code(name), kinds[name], ", ".join(map(code, labels.get(name, ()))), meaning) for name, meaning in helps]
    return table(("name", "kind", "labels", "meaning"), rows)


def _fact() -> UsageFact:
    record = OpenRecord("0", "", 1, 1, None, 1, "openai", "chat_completions", "/v1/chat/completions", None, None)
    return UsageFact(record, Outcome.COMPLETE, "final", tokens={"input": 1})
