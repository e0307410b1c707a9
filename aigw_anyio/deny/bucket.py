"""The names of key-value buckets, without anything that speaks to NATS."""

from __future__ import annotations

import re
from typing import Final

BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""What names a bucket; anything else could be another subject."""
