"""Where tests keep their files: in memory where there is room, since a store on a disk waits for it at each commit."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30
"""Bytes that must be free in it: the databases and logs of all workers, and a browser's own use of it."""


def keep_in_memory() -> None:
    """For this process and those it starts, unless TMPDIR says where to. Call it before anything asks for a folder."""
    if "TMPDIR" in os.environ or not _has_room():
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def _has_room() -> bool:
    """Whether all that the tests write may be kept there, the programs among it included."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK)):
        return False
    return shutil.disk_usage(MEMORY).free >= ROOM and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
