"""What it runs on, and what processes use of it: CPU time and memory of a process and its children."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

KIB, MIB = 1 << 10, 1 << 20
DESCRIPTORS = 65_536
_PACKAGES = ("aiohttp", "asyncpg", "httptools", "sse-starlette", "starlette", "uvicorn", "uvloop")
_CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""Those that all of it may use, as long as nothing was given its own."""


@contextmanager
def on_cpu(*, server: bool | None) -> Iterator[None]:
    """What is started meanwhile stays on the first CPU if it is what is measured, else on the others; None is for what
    may be on any.

    With one CPU alone, all is on that.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    first = {min(_CPUS)}
    os.sched_setaffinity(0, _CPUS if server is None else first if server else _CPUS - first or first)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def cpu_seconds(pid: int) -> float:
    """Of a process, all its threads and its living children, so far."""
    return sum(_cpu_seconds(one) for one in _tree(pid))


def resident(pid: int) -> int:
    """Bytes of memory that a process and its children have in use."""
    found = 0
    for one in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            found += one.memory_info().rss
    return found


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    """As the scheduler counts it, in nanoseconds, where it tells; else in the kernel's ticks of 10 ms."""
    threads = Path(f"/proc/{process.pid}/task")
    try:
        return sum(int((one / "schedstat").read_text().split()[0]) for one in threads.iterdir()) / 1e9
    except FileNotFoundError:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            return times.user + times.system
        return 0.0


def raise_descriptors() -> int:
    """How many files and sockets this process and its children may have, after it was raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def described() -> dict[str, str]:
    """The machine and the versions that figures depend on."""
    return {
        "CPU": f"{os.cpu_count()} x {_cpu_model()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        **{name: _version(name) for name in _PACKAGES},
        "nginx": said("nginx", "-v").removeprefix("nginx version: nginx/") or "missing",
        "nchan": said("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan") or "unknown",
        "C compiler": said("cc", "--version") or "missing",
        "load before": " ".join(f"{one:.1f}" for one in os.getloadavg()),
    }


def said(*command: str) -> str:
    """The first line of what a command says, nothing when it fails."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter((ended.stdout or ended.stderr).splitlines()), "").strip()


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
