"""Packages of PyPI and of npm that some tests run beside those of the checkout, each list in a folder of its own.

`lists/{name}/` holds a `requirements.txt`, or a `package.json` with its `package-lock.json`, which pin all by their
hashes. To renew the latter: `npm install --package-lock-only --omit-lockfile-registry-resolved` in that folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import node
from tests.support.installing import VENV, need

LISTS = Path(__file__).resolve().parent / "lists"
_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1", "--upgrade")
_PINNED = (
    "--no-compile",
    "--target=.",
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "-r",
    "requirements.txt",
)


def packages(name: str) -> Path:
    """The folder with what a list names, for PYTHONPATH, or with the `node_modules` that Node finds there.

    Skips the test where the packages cannot be had; in CI it fails.
    """
    folder = VENV / "packages" / name
    lists = tuple(sorted((LISTS / name).iterdir()))
    need(folder, lists, node.INSTALL if (LISTS / name / "package.json").exists() else (*_PIP, *_PINNED))
    return folder
