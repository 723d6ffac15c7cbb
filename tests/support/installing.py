"""Packages that tests need besides those of their environment: each list is installed once, in a folder of .venv."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

VENV = Path(__file__).resolve().parent.parent.parent / ".venv"
INSTALL_SECONDS = 110


def need(folder: Path, lists: tuple[Path, ...], *commands: tuple[str, ...]) -> None:
    """Install what the lists name, by commands that find copies of them in `folder`. Skips the test where the packages
    cannot be had; in CI it fails.
    """
    why = _installed(folder, lists, commands)
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


@cache
def _installed(folder: Path, lists: tuple[Path, ...], commands: tuple[tuple[str, ...], ...]) -> str:
    """Why the packages are not there, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of another run of the tests; let go when the file is closed
        wanted = "".join(path.read_text() for path in lists)
        filled = folder / "filled"
        if filled.exists() and filled.read_text() == wanted:
            return ""
        filled.unlink(missing_ok=True)
        for path in lists:
            shutil.copy(path, folder)
        for command in commands:
            why = _run(command, folder)
            if why:
                return why
        filled.write_text(wanted)
    return ""


def _run(command: Sequence[str], folder: Path) -> str:
    """Why it failed, or nothing."""
    failed = f"{' '.join(Path(part).name for part in command[:4])} could not install the packages; "
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"{failed}it took over {INSTALL_SECONDS} seconds; is the registry within reach?"
    except subprocess.CalledProcessError as error:
        said = " ".join(line for line in error.stderr.splitlines() if "error" in line.lower())
        return f"{failed}is the registry within reach? {said:.240}"
    return ""
