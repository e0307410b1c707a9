"""The usual answer: a short JSON document that came whole and states its usage once. Anything else is the Meter's."""

from __future__ import annotations

from typing import Final

from aigw_core.usage.document import DOCUMENT_MAX
from aigw_core.usage.jsontext import decode_json, may_repeat
from aigw_core.usage.meter import MeterResult, UsageStatus, state_usage
from aigw_core.usage.profile import UsageProfile
from aigw_core.usage.readers import name_text, tokens_of
from aigw_core.wires import Wire

_FINAL: Final = UsageStatus.FINAL


def read_answer(wire: Wire, profile: UsageProfile, data: bytes) -> MeterResult | None:
    """What the Meter would say of this body after a status of success and under a JSON label; None: ask it.

    It takes a third of the Meter's steps, and nearly every exchange takes it.
    """
    if not (wire.billable and data.startswith(b"{")) or len(data) > DOCUMENT_MAX or may_repeat(data, b'"usage"'):
        return None
    try:
        root = decode_json(data)
    except ValueError:
        return None
    if type(root) is not dict:
        return None
    usage = root.get("usage")
    if type(usage) is not dict or not usage or root.get("error"):
        return None
    tier = root.get("service_tier")
    result = MeterResult(_FINAL, None, {}, name_text(root.get("model")), None if tier is None else name_text(tier))
    state_usage(result, usage, tokens_of(wire, profile, usage))
    return result
