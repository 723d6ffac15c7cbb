"""The private parts of other libraries that the gateway stands on: an upgrade that changes one fails here, by name."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import uvicorn
from aiohttp import BytesPayload, ClientRequest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector
from aiohttp.connector import Connection as ClientConnection
from aiohttp.http import StreamWriter
from aiohttp.streams import DataQueue, StreamReader
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from yarl import URL

from gateway.outbound.exchange import IS_DIRECT
from gateway.outbound.sessions import BoundedAnswer, BoundedResponse, CallersRequest, SentBody
from gateway.server.connection import Connection
from gateway.server.server import Server
from gateway.streams.stream import Stream

CHECKOUT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
SOURCES = {path: path.read_text() for path in (CHECKOUT / "gateway").rglob("*.py")}

RESPONSE_PARAMETERS = (
    "timer skip_payload read_until_eof auto_decompress read_timeout read_bufsize timeout_ceil_threshold max_line_size "
    "max_field_size max_headers"
)
METHODS: dict[str, tuple[Callable[..., Any], str]] = {
    "HttpToolsProtocol": (HttpToolsProtocol.__init__, "config server_state app_state _loop"),
    "HttpToolsProtocol.connection_made": (HttpToolsProtocol.connection_made, "transport"),
    "HttpToolsProtocol.on_header": (HttpToolsProtocol.on_header, "name value"),
    "HttpToolsProtocol.on_body": (HttpToolsProtocol.on_body, "body"),
    "HttpToolsProtocol._unset_keepalive_if_required": (HttpToolsProtocol._unset_keepalive_if_required, ""),
    "HttpToolsProtocol.on_message_begin": (HttpToolsProtocol.on_message_begin, ""),
    "HttpToolsProtocol.on_message_complete": (HttpToolsProtocol.on_message_complete, ""),
    "HttpToolsProtocol.on_response_complete": (HttpToolsProtocol.on_response_complete, ""),
    "HttpToolsProtocol.data_received": (HttpToolsProtocol.data_received, "data"),
    "HttpToolsProtocol.connection_lost": (HttpToolsProtocol.connection_lost, "exc"),
    "HttpToolsProtocol._start_asgi_task": (HttpToolsProtocol._start_asgi_task, "cycle app"),
    "FlowControl": (FlowControl.__init__, "transport"),
    "FlowControl.drain": (FlowControl.drain, ""),
    "FlowControl.pause_reading": (FlowControl.pause_reading, ""),
    "FlowControl.resume_reading": (FlowControl.resume_reading, ""),
    "Config.load": (uvicorn.Config.load, ""),
    "Server": (uvicorn.Server.__init__, "config"),
    "Server.run": (uvicorn.Server.run, "sockets"),
    "Server._serve": (uvicorn.Server._serve, "sockets"),
    "Server.startup": (uvicorn.Server.startup, "sockets"),
    "Server.main_loop": (uvicorn.Server.main_loop, ""),
    "Server.on_tick": (uvicorn.Server.on_tick, "counter"),
    "Server.shutdown": (uvicorn.Server.shutdown, "sockets"),
    # sse-starlette has put a function of its own in its place, for every Server but ours.
    "Server.handle_exit": (AppStatus.original_handler or uvicorn.Server.handle_exit, "sig frame"),
    "ResponseHandler": (ResponseHandler.__init__, "loop"),
    "ResponseHandler.data_received": (ResponseHandler.data_received, "data"),
    "ResponseHandler.set_exception": (ResponseHandler.set_exception, "exc exc_cause"),
    "ResponseHandler.set_response_params": (
        ResponseHandler.set_response_params,
        RESPONSE_PARAMETERS,
    ),
    "ResponseHandler.feed_data": (ResponseHandler.feed_data, "data size"),
    "ResponseHandler.exception": (ResponseHandler.exception, ""),
    "ResponseHandler.close": (ResponseHandler.close, ""),
    "ResponseHandler.abort": (ResponseHandler.abort, ""),
    "BaseConnector.connect": (BaseConnector.connect, "req traces timeout"),
    "Connection.release": (ClientConnection.release, ""),
    "Connection.close": (ClientConnection.close, ""),
    "DataQueue.read": (DataQueue.read, ""),
    "ClientRequest.write_bytes": (ClientRequest.write_bytes, "writer conn content_length"),
    "BytesPayload.write_with_length": (BytesPayload.write_with_length, "writer content_length"),
    "EventSourceResponse.__call__": (EventSourceResponse.__call__, "scope receive send"),
}
CONFIG = (
    "app http ws lifespan log_config access_log proxy_headers server_header backlog timeout_keep_alive "
    "timeout_graceful_shutdown"
)
ATTRIBUTES = {
    HttpToolsProtocol: "flow cycle scope headers transport loop parser",
    FlowControl: "write_paused",
    RequestResponseCycle: (
        "scope transport disconnected response_started response_complete keep_alive chunked_encoding "
        "expected_content_length message_event waiting_for_100_continue"
    ),
    ServerState: "connections tasks",
    uvicorn.Config: "http_protocol_class",
    uvicorn.Server: "should_exit force_exit started server_state",
    ResponseHandler: "transport writing_paused _parser _payload",
    StreamWriter: "transport _headers_buf",
    StreamReader: "_buffer",
    ClientConnection: "protocol transport",
    EventSourceResponse: "status_code raw_headers media_type background body_iterator",
}
OVERRIDDEN = {
    Connection: (
        "__init__ connection_made data_received eof_received connection_lost on_message_begin on_header on_body "
        "on_message_complete on_response_complete _start_asgi_task cycle scope headers parser"
    ),
    Server: "__init__ handle_exit startup main_loop shutdown should_exit force_exit",
    BoundedResponse: "__init__ data_received feed_data close",
    BoundedAnswer: "__init__ writing_paused set_response_params feed_data data_received close",
    CallersRequest: "write_bytes",
    SentBody: "write_with_length",
    Stream: "__init__ __call__ raw_headers",
}
"""What each class of ours has a meaning of its own for, of what its base has."""


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_of_a_method(name: str) -> None:
    """As the gateway calls or overrides it."""
    method, parameters = METHODS[name]
    assert list(inspect.signature(method).parameters) == ["self", *parameters.split()]


def test_the_parameters_of_the_config() -> None:
    """Of many, those that are given."""
    assert set(CONFIG.split()) <= inspect.signature(uvicorn.Config).parameters.keys()


async def no_app(_scope: Any, _receive: Any, _send: Any) -> None:
    """Never called."""


def made() -> dict[type, Any]:
    """One object of each class, with its attributes."""
    config = uvicorn.Config(no_app, ws="none", lifespan="off", log_config=None)
    loop = asyncio.get_running_loop()
    cycle: dict[str, Any] = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
    return {
        HttpToolsProtocol: HttpToolsProtocol(config, ServerState(), {}, loop),
        FlowControl: FlowControl(asyncio.Transport()),
        RequestResponseCycle: RequestResponseCycle(**cycle),
        ServerState: ServerState(),
        uvicorn.Config: config,
        uvicorn.Server: uvicorn.Server(config),
        ResponseHandler: ResponseHandler(loop),
        StreamWriter: StreamWriter(ResponseHandler(loop), loop),
        StreamReader: StreamReader(ResponseHandler(loop), 1, loop=loop),
        ClientConnection: ClientConnection(cast("Any", None), cast("Any", None), cast("Any", None), loop),
        ClientRequest: ClientRequest("GET", URL("http://h/"), loop=loop),
        BytesPayload: BytesPayload(b""),
        EventSourceResponse: EventSourceResponse(iter(()), ping=0),
    }


@pytest.mark.parametrize("kind", ATTRIBUTES, ids=lambda kind: kind.__name__)
async def test_the_attributes_of_an_object(kind: type) -> None:
    """Those that the gateway reads or sets."""
    one = made()[kind]
    assert [name for name in ATTRIBUTES[kind].split() if not hasattr(one, name)] == []


@pytest.mark.parametrize("kind", OVERRIDDEN, ids=lambda kind: kind.__name__)
async def test_no_name_of_ours_is_one_of_theirs(kind: type) -> None:
    """But those that are overridden on purpose, and all of those are still there."""
    base = kind.__bases__[0]
    theirs = {*dir(base), *vars(made()[base])}
    nodes = [node for node in ast.walk(ast.parse(inspect.getsource(kind))) if isinstance(node, ast.Attribute)]
    assigned = {node.attr for node in nodes if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"}
    named = {name for name in vars(kind) if not name.startswith("__") or name in {"__init__", "__call__"}}
    ours = (assigned | named) - {"_abc_impl"}  # each abstract class has one of its own
    assert ours & theirs == set(OVERRIDDEN[kind].split())


def test_polls_go_the_direct_way() -> None:
    """The private parts for it are there."""
    assert IS_DIRECT


async def test_what_makes_aiohttps_protocols() -> None:
    """A partial of the class with the loop, which another class may stand in for."""
    async with aiohttp.TCPConnector() as connector:
        factory = connector._factory
        assert isinstance(factory, partial)
        assert (factory.func, factory.args) == (ResponseHandler, ())
        assert factory.keywords == {"loop": asyncio.get_running_loop()}


@pytest.mark.parametrize(
    ("word", "places"),
    [
        (r"\._headers_buf\b|\bwriting_paused\b|\bwrite_bytes\b|\bwrite_with_length\b", ["outbound/sessions.py"]),
        (r"\baiohttp\.client_proto\b|\bResponseHandler\b", ["outbound/exchange.py", "outbound/sessions.py"]),
        (r"\._factory\b", ["outbound/sessions.py"]),
        (r"\bset_response_params\b", ["outbound/exchange.py", "outbound/sessions.py"]),
        (r"\bBaseConnector\b|\.connect\(origin|payload\._buffer\b", ["outbound/exchange.py"]),
        (r"\bsse_starlette\b|\bEventSourceResponse\b", ["streams/stream.py"]),
        (r"\bHttpToolsProtocol\b", ["server/connection.py"]),
        (r"\bRequestResponseCycle\b", ["server/connection.py", "server/responses.py"]),
    ],
)
def test_each_private_part_has_its_place(word: str, places: list[str]) -> None:
    """No other file names it."""
    found = [str(path.relative_to(CHECKOUT / "gateway")) for path, text in SOURCES.items() if re.search(word, text)]
    assert sorted(found) == places


@pytest.mark.parametrize("library", ["aiohttp", "sse-starlette", "uvicorn"])
def test_a_library_with_private_parts_in_use_is_bounded(library: str) -> None:
    """The pinned release is within the bounds, the next minor one is not."""
    lines = (CHECKOUT / "deploy" / "constraints.txt").read_text().splitlines()
    (pin,) = (line.partition("==")[2] for line in lines if line.startswith(f"{library}=="))
    (bounds,) = (one.specifier for one in map(Requirement, PROJECT["dependencies"]) if one.name == library)
    release = Version(pin)
    assert release in bounds
    assert Version(f"{release.major}.{release.minor + 1}") not in bounds
    assert Version(f"{release.major}.{release.minor}.{release.micro + 1}") in bounds


def test_what_is_imported_is_declared() -> None:
    """By the package itself, not only by another that needs it too."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["demo"], *extras["identity"], *extras["otel"]]
    declared = {canonicalize_name(Requirement(one).name) for one in wanted}
    nodes = [node for text in SOURCES.values() for node in ast.walk(ast.parse(text))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"gateway"}
    belongs = packages_distributions()
    assert {one for one in foreign if not declared & {canonicalize_name(name) for name in belongs[one]}} == set()
