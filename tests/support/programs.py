"""Programs of the operating system that some tests run: nginx, PgBouncer and the like.

Where one is missing, its tests are skipped, with the package to install; CI installs it, or fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # of programs that are not on everybody's PATH
INSTALL_SECONDS = 300


def program(name: str, package: str) -> str:
    """The path of a program that Debian's package has. Skips the test where it is missing; in CI it fails."""
    path, why = _found(name, package)
    if path is None:
        (pytest.fail if _is_ci() else pytest.skip)(why)
    return path


@cache
def _found(name: str, package: str) -> tuple[str | None, str]:
    """The path, or why there is none."""
    path = path_of(name)
    why = f"{name} is missing: apt-get install {package}"
    if path is None and _is_ci():
        with (Path(tempfile.gettempdir()) / "gateway-tests.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the tests may be installing too
            why = "" if path_of(name) else _install(package) or why
        path = path_of(name)
    return path, why


def path_of(name: str) -> str | None:
    """Where a program is, also when its folder is not on the PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{FOLDERS}")


def _is_ci() -> bool:
    return os.environ.get("CI") == "true"


def _install(package: str) -> str:
    """Why it cannot be installed, or nothing."""
    if os.geteuid() != 0:
        return f"{package} is missing, and only root can install it"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        try:
            ended = subprocess.run(
                ["apt-get", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{package} is missing, and apt-get does not install it: {error}"
        if ended.returncode:
            return f"{package} is missing, and apt-get does not install it: {ended.stderr.strip():.400}"
    return ""
