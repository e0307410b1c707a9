"""Usage: reading it from answers as they pass, and asking for it in requests."""

from aigw_core.usage.meter import Meter, MeterResult, UsageStatus
from aigw_core.usage.profile import USAGE_PROFILES, UsageProfile, usage_profile

__all__ = [
    "USAGE_PROFILES",
    "Meter",
    "MeterResult",
    "UsageProfile",
    "UsageStatus",
    "usage_profile",
]
