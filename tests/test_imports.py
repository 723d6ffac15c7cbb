"""The direction of imports, and the size of files: what keeps the rooms apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
CORE = "addresses capabilities cursor deliveries dialects errors events items jobs patience schedule shares signing"
PURE = {f"gateway.{name}" for name in CORE.split()}
IMPURE = {"aiohttp", "anyio", "asyncio", "logging", "os", "socket", "sqlite3", "starlette", "threading", "time"}
EDGES = {
    "aiohttp": {"gateway.names", "gateway.receivers", "gateway.upstream"},
    "asyncpg": {f"gateway.store.{name}" for name in ("database", "ownership", "pool", "postgres", "wakeups")},
    "logging": {"gateway.logs"},
    "opentelemetry": {"gateway.tracing_otel"},
    "prometheus_client": {"gateway.metrics"},
    "pycares": {"gateway.names"},
    "rich": set(),  # the commands alone
    "sqlite3": {f"gateway.store.{name}" for name in ("sqlite", "sqlite_callbacks", "file", "lane")},
    "starlette": {
        f"gateway.{name}"
        for name in ("access", "answers", "app", "bodies", "callback_routes", "page", "passing", "routes", "sse")
    },
    "uvicorn": {"gateway.connection", "gateway.server"},
    "gateway.store.sqlite": {"gateway.app"},
    "gateway.store.postgres": {"gateway.app"},
    "gateway.settings": {f"gateway.{name}" for name in ("app", "descriptors", "greeting", "server")},
    "gateway.settings_words": {"gateway.settings"},
    "gateway.asyncapi": {"gateway.docs"},
    "gateway.docs": {"gateway.routes", "gateway.docs.page", "gateway.docs.types"},
    "gateway.openapi": {
        "gateway.asyncapi",
        "gateway.docs",
        "gateway.docs.page",
        *(f"gateway.openapi.{name}" for name in ("callbacks", "copies", "faults", "jobs", "schemas", "service")),
    },
    "gateway.tracing": {"gateway.server"},
    "gateway.tracing_otel": {"gateway.tracing"},
    "gateway.sse": {"gateway.routes"},
    "gateway.tails": {"gateway.routes", "gateway.sse", "gateway.app"},
}


def imported(path: Path) -> set[str]:
    """Every module a file names, with the names it takes from it, as both may be modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def names(module: str, wanted: str) -> bool:
    return any(name == wanted or name.startswith(f"{wanted}.") for name in IMPORTS[module])


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_core_knows_no_edge(module: str) -> None:
    """Pure modules import no I/O, no clock and no edge of the gateway."""
    assert not {name for name in IMPURE if names(module, name)}
    assert {name for name in MODULES if names(module, name)} - {"gateway"} <= PURE


@pytest.mark.parametrize("library", sorted(EDGES))
def test_each_edge_has_its_few_users(library: str) -> None:
    """A library, or a room that others must not know, is named where it belongs and nowhere else."""
    outside = ("gateway.simulator", "gateway.cli", "gateway.__main__")
    users = {module for module in MODULES if names(module, library) and not module.startswith(outside)}
    assert users - {library} <= EDGES[library]


def test_the_poller_does_not_know_who_reads() -> None:
    """Producers know no consumers."""
    for producer in ("gateway.poller", "gateway.watch", "gateway.copies", "gateway.store"):
        for consumer in ("gateway.tails", "gateway.sse", "gateway.routes", "gateway.app"):
            assert not names(producer, consumer), (producer, consumer)


def test_there_are_no_cycles() -> None:
    """Imports go down only."""
    edges = {module: {name for name in MODULES if name in IMPORTS[module]} - {module} for module in MODULES}
    left = dict(edges)
    while left:
        bottom = {module for module, below in left.items() if not below & left.keys()}
        assert bottom, f"a cycle among {sorted(left)}"
        for module in bottom:
            del left[module]


def test_a_file_has_one_subject() -> None:
    """Past about 400 lines it has found a second one."""
    long = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
