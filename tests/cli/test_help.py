"""What the command line says of itself: help, version, completion, and what it imports for that."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import anyio

from gateway.graph.operations import OPERATIONS
from gateway.settings import Settings
from gateway.simulator import SCENARIOS
from tests.support.commands import fresh_gateway, gateway

COMMANDS = (
    *("demo", "serve", "simulate", "jobs", "backup", "reseal"),
    *("copy", "start", "tail", "watch", "token", "stop", "listen", "callbacks"),
)


async def test_help_teaches() -> None:
    """Every command, every setting, every scenario and the exit codes can be found from --help."""
    status, top, _ = await fresh_gateway("--help", COLUMNS="80")
    assert status == 0
    assert tuple(re.findall(r"(?m)^  ([a-z]+) +[A-Z]", top.partition("Commands:")[2])) == COMMANDS
    assert "..." not in top.partition("Commands:")[2]  # of a first sentence that is too long for its line
    _, serve, _ = await gateway("serve", "--help")
    assert not [name for name in Settings.model_fields if f"GATEWAY_{name.upper()}" not in serve]
    _, simulate, _ = await gateway("simulate", "--help")
    assert not [name for name in SCENARIOS if name not in simulate]
    _, start, _ = await gateway("start", "--help")
    assert not [operation for operation in OPERATIONS if operation.path not in start]
    _, _, errors = await gateway("tial")
    assert "Did you mean 'tail'?" in errors
    for wrong in (("nothing",), ("copy", "x"), ("start", "GET", "me"), ("simulate", "--scenario", "none"), ("tail",)):
        status, _, errors = await gateway(*wrong)
        assert status == 2
        assert errors


async def test_version_and_completion() -> None:
    """Completion knows the commands of every file; what `gateway serve` does not need, it does not import."""
    assert await fresh_gateway("--version") == (0, f"gateway {version('copy-gateway')}\n", "")
    asked = {"_GATEWAY_COMPLETE": "complete_bash", "COMP_WORDS": "gateway ", "COMP_CWORD": "1"}
    _, completed, _ = await fresh_gateway(**asked)
    assert {*completed.split()} == {*COMMANDS}
    script = (
        "import sys, typer; from gateway.cli.commands import app; group = typer.main.get_command(app); "
        "group.get_command(None, 'serve'); print(*sys.modules); group.get_command(None, 'tail'); print(*sys.modules)"
    )
    ran = await anyio.run_process([sys.executable, "-c", script])
    without, with_others = ({*line.split()} for line in ran.stdout.decode().splitlines())
    assert {"gateway.cli.copies", "gateway.cli.callbacks"} <= with_others - without
