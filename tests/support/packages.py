"""Packages of PyPI and of npm that some tests run beside those of the checkout, each list in a folder of its own.

`lists/{name}/` holds a `requirements.txt`, or a `package.json` with its `package-lock.json`, which pin all by their
hashes. To renew the latter: `npm install --package-lock-only --omit-lockfile-registry-resolved` in that folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.node import NODE, NPM

LISTS = Path(__file__).resolve().parent / "lists"
FOLDER = LISTS.parent.parent.parent / ".venv" / "packages"
INSTALL_SECONDS = 100


def packages(name: str) -> Path:
    """The folder with what a list names, for PYTHONPATH, or with the `node_modules` that Node finds there.

    Skips the test where the packages cannot be had; in CI it fails.
    """
    folder, why = _installed(name)
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return folder


@cache
def _installed(name: str) -> tuple[Path, str]:
    """The folder, and why the packages are not there."""
    folder = FOLDER / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of another run of the tests; let go when the file is closed
        return folder, _fill(LISTS / name, folder)


def _fill(lists: Path, folder: Path) -> str:
    """Install the packages unless they are there; why not, when that fails."""
    paths = sorted(lists.iterdir())
    wanted = "".join(path.read_text() for path in paths)
    filled = folder / "filled"
    if filled.exists() and filled.read_text() == wanted:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    if (folder / "package.json").exists():
        command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # by itself npm waits a minute for no network
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
        command += ["--target=.", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", "requirements.txt"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"{lists.name} were not installed within {INSTALL_SECONDS} seconds; is the registry within reach?"
    except subprocess.CalledProcessError as error:
        said = " ".join(line for line in error.stderr.splitlines() if "error" in line.lower())
        return f"{lists.name} could not be installed; is the registry within reach? {said:.240}"
    filled.write_text(wanted)
    return ""
