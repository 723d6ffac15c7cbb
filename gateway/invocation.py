"""How this program is called, and where its commands look for a gateway."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8000"


def command() -> str:
    """How this program is called again from the same shell."""
    called = Path(sys.argv[0])
    if called.name != "gateway":
        return f"{shlex.quote(sys.executable)} -m gateway"
    return "gateway" if shutil.which("gateway") else shlex.quote(str(called))
