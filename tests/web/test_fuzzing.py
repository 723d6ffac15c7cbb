"""No input makes it answer 500, or what its own document does not name."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.simulator import Simulator, running
from gateway.web.docs.resolved import operations
from tests.support.described import DOCUMENT, is_told
from tests.support.examples import examples, is_thorough
from tests.support.harness import OPERATOR_KEY, TOKEN, serving, tail

if TYPE_CHECKING:
    from schemathesis import Case

QUICKLY = settings(
    max_examples=examples(6), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
# Without what is the same by another name: /copy in its other spelling, HEAD, a copy and its siblings in every drive.
SAME = "^boundCopy|^head[A-Z]|^(move|change)(OneOf|Owners)"
OTHER_PLACES = "^(copy|read|move|change)(?!MyDrive(Item|PathBelowItem)$)"
OTHER_STARTS = "^(clone|archive|unarchive|copyTo|createSession(?!MyDrive$)|addCopyFromContentTypeHub$)|Community$"
LEFT_OUT = re.compile(SAME if is_thorough() else f"{SAME}|{OTHER_PLACES}|{OTHER_STARTS}")
OPERATIONS = {(one.path, one.method): one for one in operations(DOCUMENT)}
NAMES = [
    operation["operationId"]
    for path in DOCUMENT["paths"].values()
    for operation in path.values()
    if isinstance(operation, dict) and not LEFT_OUT.search(operation["operationId"])
]


@pytest.fixture(scope="module")
def schema() -> Any:
    from schemathesis import openapi  # noqa: PLC0415 - it takes a second, in each process that collects the tests

    return openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # it would look for proxies before each request
        yield session


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A gateway on a socket in a thread of its own, with a job that has ended."""
    ready: Queue[Any] = Queue()

    async def serve(folder: Path) -> None:
        async with running(Simulator(seconds=0.05)) as upstream, serving(upstream.url, folder) as gateway:
            job = await gateway.copy()
            await tail(gateway.session, job["events"])
            ready.put({"url": gateway.url, "job": job["jobId"]})
            await anyio.to_thread.run_sync(stop.wait)

    stop = threading.Event()
    thread = threading.Thread(target=anyio.run, args=(serve, tmp_path_factory.mktemp("fuzz")))
    thread.start()
    yield ready.get(timeout=30)
    stop.set()
    thread.join(20)


@pytest.mark.parametrize("name", NAMES)
def test_from_the_document(name: str, schema: Any, target: dict[str, Any], session: requests.Session) -> None:
    """Every operation, with what its schema allows and what it does not: the answer is told, with its headers.

    Its cases are made here: Schemathesis's own parametrization makes all in each process that collects the tests.
    """
    from schemathesis.generation.feedback import FeedbackSources  # noqa: PLC0415 - as above
    from schemathesis.pytest._test_builder import build_operation_test  # noqa: PLC0415 - as above

    build_operation_test(
        config=schema.config,
        operation=schema.find_operation_by_id(name),
        test_func=_is_answered_as_told,
        given_kwargs={},
        feedback=FeedbackSources(),
    )(target=target, session=session)


@QUICKLY
def _is_answered_as_told(case: Case[Any], target: dict[str, Any], session: requests.Session) -> None:
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - as above
    from schemathesis.specs.openapi import checks as of_openapi  # noqa: PLC0415 - as above

    checks = [not_a_server_error, of_openapi.status_code_conformance, of_openapi.content_type_conformance]
    if case.path_parameters and "job" in case.path_parameters:
        case.path_parameters["job"] = target["job"]  # an ended job: its stream ends
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    response = case.call(base_url=target["url"], session=session, headers=headers, timeout=10)
    if response.status_code in (414, 431):
        return  # of a request too long for any operation
    # Schemathesis holds each event to a stream's schema, which is that of the whole text, for generated code.
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        checks.append(of_openapi.response_schema_conformance)
    case.validate_response(response, checks=checks)
    if case.method.upper() == case.operation.method.upper():  # it tries others too, of which no operation tells
        told = OPERATIONS[case.operation.path, case.operation.method.upper()]
        sent = {name: ", ".join(values) for name, values in response.headers.items()}
        is_told(told, response.status_code, sent, response.content or b"")


ASCII = st.characters(min_codepoint=33, max_codepoint=126)
PARTS = st.sampled_from(
    [
        *("v1.0", "beta", "me", "drive", "drives", "items", "root", "root:", "jobs", "events", "copy", "a:", ":", ""),
        *(
            ".",
            "..",
            "%2e%2e",
            "%2F",
            "%00",
            "%5c",
            "%zz",
            "%",
            "%C3%28",
            "x" * 3000,
            "\xc3\xa9",
            "microsoft.graph.copy",
        ),
    ]
)
PATHS = st.lists(PARTS | st.text(ASCII, max_size=5), max_size=7).map(lambda parts: "/" + "/".join(parts))
QUERIES = st.sampled_from(
    ["", "?", "?limit=0", "?limit=99999999999", "?cursor=%00", "?job=a&job=a", "?job=", "?" + "a" * 5000]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Accept", "Last-Event-ID", "Idempotency-Key", "Authorization", "Prefer", "client-request-id"),
            *("Content-Type", "Gateway-Label", "If-Match"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
    max_size=4,
)


@settings(
    max_examples=examples(300), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(
    st.sampled_from(["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT", "OPTIONS"]),
    PATHS,
    QUERIES,
    HEADERS,
    st.binary(max_size=60),
)
def test_raw_requests(
    target: dict[str, Any], method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> None:
    """Strange paths, queries, headers and bodies over a bare socket: an answer, never a 500, never a hang."""
    host, port = target["url"].removeprefix("http://").split(":")
    lines = [f"{method} {path}{query} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    status = int(answer.split(b" ", 2)[1])
    assert status != 500, answer[:300]
    head, _, content = answer.partition(b"\r\n\r\n")
    if status >= 400 and b"text/plain" not in head.lower() and method != "HEAD":
        assert b'"error"' in content, answer[:300]


def test_the_fuzzed_gateway_still_works(target: dict[str, Any]) -> None:
    """After all that, an ordinary copy goes its way."""

    async def copy() -> None:
        async with aiohttp.ClientSession() as session:
            url = f"{target['url']}/v1.0/me/drive/items/copy/copy"
            async with session.post(url, json={"name": "last"}, headers=TOKEN) as response:
                assert response.status == 202
                job = await response.json()
            assert (await tail(session, job["events"]))[-1].name == "completed"

    anyio.run(copy)
