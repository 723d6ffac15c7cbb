"""Python's garbage collector: off while `gateway serve` starts, and on from then on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import serving


def is_enabled(then: str, *arguments: str) -> bool:
    """Whether it is, in a process with these arguments, once that has been done."""
    code = f"import gc, sys\ntry:\n    {then}\nexcept SystemExit as end: assert end.code == 2\nprint(gc.isenabled())"
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "GATEWAY_STORE_URL": ""},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return told.stdout == "True\n"


@pytest.mark.parametrize(
    ("arguments", "enabled"), [(["serve"], False), (["jobs"], True), (["simulate"], True), ([], True)]
)
def test_it_is_off_while_a_gateway_is_imported(arguments: list[str], enabled: bool) -> None:
    """The other commands keep it."""
    assert is_enabled("import gateway.__main__", *arguments) == enabled


def test_it_is_on_where_workers_are_looked_after() -> None:
    """There no gateway starts in the process itself. Several workers are refused here, since their store is a file."""
    assert is_enabled("from gateway.__main__ import main; main()", "serve", "--workers", "2")


async def test_it_is_on_once_the_gateway_has_started(tmp_path: Path) -> None:
    gc.disable()
    try:
        async with serving("http://127.0.0.1:9", tmp_path):
            assert gc.isenabled()
    finally:
        gc.enable()
