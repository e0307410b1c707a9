"""How many files this process may hold open, and how many connections that is good for."""

from __future__ import annotations

import errno
import resource
from typing import Final

FILES_RESERVED: Final = 64
"""Descriptors for listeners, logs, facts, name resolution and the admin listener's connections."""
FILES_MIN: Final = FILES_RESERVED + 2
"""For one exchange at a time: a connection on either side of it. With fewer the gateway does not start."""
FILES_MAX: Final = 1_048_576
"""What the soft limit is raised to at most, where the hard limit is higher or absent."""


def open_files_limit() -> int:
    """The soft limit of open files, FILES_MAX at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_MAX if soft == resource.RLIM_INFINITY else min(soft, FILES_MAX)


def raise_open_files_limit() -> int:
    """Raise the soft limit to the hard one: its default is low for the sake of programs with ``select``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            # Some systems forbid what their hard limit allows; the gateway then serves fewer connections.
            return open_files_limit()
    return open_files_limit()


NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Of accept(2): the system has no descriptor or no memory left; any other error is that of one connection."""


def out_of_files(error: BaseException) -> bool:
    """Whether a lack of descriptors is what made this fail, however it is wrapped."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    inner += [cause for cause in (error.__cause__, error.__context__) if cause is not None]
    return any(out_of_files(each) for each in inner)


def default_max_connections(open_files: int, idle_upstream: int) -> int:
    """Downstream connections such that each can have an upstream one beside the idle ones and the reserve.

    ``idle_upstream`` is the most that the pool keeps over all providers; it gets a quarter at most, since a
    full pool closes connections while a missing descriptor fails a request.
    """
    spare = open_files - FILES_RESERVED - min(open_files // 4, idle_upstream)
    return max(1, spare // 2)
