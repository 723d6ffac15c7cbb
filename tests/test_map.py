"""The reader's map in CONTRIBUTING names rooms, files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "gateway"
SECTION = re.search(
    r"^## Where things are$(.*?)^## ", (CHECKOUT / ".github" / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
)
MAP = SECTION[1] if SECTION else ""
NAMED = re.findall(r"`([\w/]+\.py):([\w.]+)`", MAP)
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}


def defined(path: Path, name: str) -> bool:
    """Whether a module defines a class or a function, or a class one of its methods."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        found = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
        ]
        if not found:
            return False
        body = found[0].body
    return True


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_named_place_exists(file: str, name: str) -> None:
    """A file of the package, and what it defines."""
    assert defined(PACKAGE / file, name)


def test_it_names_every_room_and_is_short() -> None:
    """Two walks, each of several places, in 40 lines at most."""
    assert {room for room in ROOMS if f"`{room}/`" in MAP} == ROOMS
    assert len(NAMED) > 15
    assert len(MAP.strip().splitlines()) < 40
