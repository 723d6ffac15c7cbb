"""How long it takes until `gateway serve` is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.bench.machine import cpu_seconds, on_cpu
from tests.bench.row import Case, Figures, Line, Row, Target
from tests.bench.servers import gateway

NOWHERE = "http://127.0.0.1:9"


async def start(folder: Path, _run: int) -> Figures:
    begun = time.perf_counter()
    async with gateway(NOWHERE, folder) as process:
        return {"ready": time.perf_counter() - begun, "CPU": cpu_seconds(process.process.pid)}


async def load_modules(modules: str, _folder: Path, _run: int) -> Figures:
    with on_cpu(server=True):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, timeout=60)  # noqa: ASYNC221 - nothing else runs
    return {"ready": time.perf_counter() - begun}


ROW = Row(
    name="start",
    about="From the call of `gateway serve` with an empty store until /readyz is 200, Python's own start included.",
    cases=[
        Case("gateway", start),
        Case("its imports", partial(load_modules, "gateway.server.server")),
        Case("Python alone", partial(load_modules, "sys")),
    ],
    lines=[
        Line("until ready", "s", "gateway", "ready", target=Target(0.7)),
        Line("CPU of that", "s", "gateway", "CPU"),
        Line("until imported", "s", "its imports", "ready"),
        Line("Python alone", "s", "Python alone", "ready"),
    ],
)
