"""Content codings that answers come in, from wherever this Python has them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from tests import zstd

CODINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}
if find_spec("brotli"):
    CODINGS["br"] = import_module("brotli").compress
