"""The deny-set in a JSON file, watched.

One object: the keys are those of the key-value bucket, the values their reasons, as text or as an object with a
``reason``::

    {"blackhole.42": "spend", "blackhole.key.7": {"reason": "fraud", "note": "ticket 1"}}

A file that is missing or not understood changes nothing: what was read last stays in force, and that is said. To
restore everybody, write ``{}``. The revision is the time of the file's last change, in milliseconds since the epoch.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from aigw_anyio import logs
from aigw_anyio.deny.control import DenyControl
from aigw_anyio.names import NAME_SHOWN_MAX, NOT_SHOWN, looks_secret
from aigw_core.denyset import DenySet, parse_entry_key
from aigw_core.denyspelling import nearest_entry_key
from aigw_core.snapshot import Snapshot

POLL_SECS: Final = 0.25
"""Between two looks at the file, so that an entry is in force well within a second."""
YOUNG_SECS: Final = 2.0
"""A file that was changed so recently is read again, whatever its times say: they may be too coarse to tell."""
FILE_SIZE_MAX: Final = 256 * 1024 * 1024
"""Of the file; more than five million entries."""

_log = logging.getLogger("aigw.deny")


class FileProblem(Exception):
    """The file is no deny-set; the text says why and quotes nothing."""


@dataclass(frozen=True, slots=True)
class _Reading:
    stamp: tuple[int, int, int]
    data: bytes
    deny: DenySet
    revision: int
    misspelt: list[str]
    """Keys that are none of ours."""


def parse_deny_file(data: bytes) -> dict[str, bytes]:
    """Keys and values. Raises FileProblem."""
    try:
        root: object = json.loads(data, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise FileProblem("it is not one JSON object without repeated members") from None
    if not isinstance(root, dict):
        raise FileProblem("it is not a JSON object")
    # A value that is neither text nor object denies as well, for an unknown reason.
    return {
        key: value.encode() if isinstance(value, str) else json.dumps(value).encode() for key, value in root.items()
    }


def misspelt_keys(entries: Iterable[str]) -> list[str]:
    """Those that deny nobody, since they are none of ours."""
    return [key for key in entries if parse_entry_key(key) is None]


def told(misspelt: list[str]) -> str:
    """One line about them: how many, and the first one with what it may have been meant to be."""
    key = misspelt[0]
    others = f" and {len(misspelt) - 1} more" if len(misspelt) > 1 else ""
    what = "no key of an entry, so nobody is denied by it"
    if looks_secret(key):
        return f"{NOT_SHOWN}{others}: {what}"
    cut = f"{key[:NAME_SHOWN_MAX]}…" if len(key) > NAME_SHOWN_MAX else key
    name = logs.escaped(json.dumps(cut, ensure_ascii=False))
    return f"{name}{others}: {what}; did you mean {nearest_entry_key(key)}?"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


class FileDenySource:
    """A :class:`~aigw_anyio.deny.control.DenySource`."""

    def __init__(self, path: Path, *, poll_secs: float = POLL_SECS) -> None:
        self._path = path
        self._poll_secs = poll_secs
        self._last: _Reading | None = None
        self._misspelt: list[str] = []
        """As told last."""

    @property
    def name(self) -> str:
        return f"file:{self._path}"

    def restored(self, snapshot: Snapshot) -> None:
        """The file itself is read anyway."""

    async def run(self, control: DenyControl) -> None:
        problem = ""
        while True:
            try:
                reading = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except FileProblem as error:
                if str(error) != problem:
                    problem = str(error)
                    _log.error("the deny file is not used: %s", problem, extra={"fields": {"file": str(self._path)}})
                control.lost(problem)
            else:
                problem = ""
                if reading is not None:
                    self._last = reading
                    control.adopt(reading.deny, reading.revision)
                    self._tell_misspelt(reading.misspelt)
                if control.gateway.deny_state != "live":
                    control.live()
                else:
                    control.confirm()
            await anyio.sleep(self._poll_secs)

    def _tell_misspelt(self, misspelt: list[str]) -> None:
        """Once for as long as they are the same, however often the file changes elsewhere."""
        if misspelt and misspelt != self._misspelt:
            fields = {"file": str(self._path), "entries": len(misspelt)}
            _log.warning("misspelt in the deny file: %s", told(misspelt), extra={"fields": fields})
        self._misspelt = misspelt

    def _read(self) -> _Reading | None:
        """In a worker thread. None where the file is as it was. Raises FileProblem."""
        last = self._last
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if last is not None and stamp == last.stamp and not _is_young(status.st_mtime_ns):
                    return None
                data = file.read(FILE_SIZE_MAX + 1)
        except OSError as error:
            raise FileProblem(f"it cannot be read: {error.strerror}") from None
        if len(data) > FILE_SIZE_MAX:
            raise FileProblem("it is too large")
        if last is not None and data == last.data:
            self._last = dataclasses.replace(last, stamp=stamp)
            return None
        entries = parse_deny_file(data)
        revision = max(1, status.st_mtime_ns // 1_000_000, last.revision + 1 if last is not None else 1)
        deny = DenySet()
        deny.replace({key: (value, revision) for key, value in entries.items()}, revision)
        # Looked for only where there are any: a file may hold millions.
        misspelt = misspelt_keys(entries) if deny.ignored_keys else []
        return _Reading(stamp, data, deny, revision, misspelt)


def _is_young(mtime_ns: int) -> bool:
    """A time in the future, as of another machine, counts as young."""
    return time.time_ns() - mtime_ns < YOUNG_SECS * 1e9
