"""Starting any operation from a terminal, and handing in the token that its status asks for."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from gateway.cli.arguments import graph_path, header, json_body, secret
from tests.jobs.test_operations import Operations
from tests.support.commands import following, gateway
from tests.support.fake_upstream import answering, serving_fake
from tests.support.harness import OPERATOR_KEY, serving

NOTEBOOK = ("POST", "me/onenote/notebooks/1-2/copyNotebook")
TOKEN = {"GRAPH_TOKEN": "a-token-of-the-caller"}


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("teams", "/v1.0/teams"),
        ("/beta/teams/t/clone", "/beta/teams/t/clone"),
        ("https://graph.microsoft.com/v1.0/me/drive/items/1?a=b%20c", "/v1.0/me/drive/items/1?a=b%20c"),
        ("teams/a b/clone?x=1&y=a b", "/v1.0/teams/a%20b/clone?x=1&y=a%20b"),
    ],
)
def test_paths_as_people_write_them(address: str, path: str) -> None:
    """With or without a version and a host; the query stays."""
    assert graph_path(address) == path


def test_bodies_and_headers_as_people_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is a JSON object, a file or standard input, as a token is; a header is no secret."""
    (tmp_path / "body.json").write_text('{"a": 1.0}\n')
    assert json_body(' {"a":1e400}') == b' {"a":1e400}'
    assert json_body(str(tmp_path / "body.json")) == b'{"a": 1.0}\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    assert json_body("-") == b"{}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\n"))
    assert secret(Path("-"), "GRAPH_TOKEN", "--token-file") == "from-stdin"
    (tmp_path / "list").write_text("[]")
    for wrong in ("{", str(tmp_path / "list"), '{"a":' * 100_000):
        with pytest.raises(ValueError, match="is no JSON object"):
            json_body(wrong)
    with pytest.raises(ValueError, match="cannot be read: no such file"):
        json_body(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="is empty"):
        graph_path(" /v1.0/ ")
    assert header("Prefer: respond-async") == ("Prefer", "respond-async")
    for wrong in ("Prefer", ": x", "A b: c", "A: b\nC: d"):
        with pytest.raises(ValueError, match="is not a header"):
            header(wrong)
    for own in ("authorization: Bearer x", "Idempotency-Key: 1", "Gateway-Callback-Secret: whsec_"):
        with pytest.raises(ValueError, match="a secret"):
            header(own)


async def test_starting(tmp_path: Path) -> None:
    """As copy does: followed to its end, in lines or as JSON; what was given goes upstream as it is."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as served:
        ended = {"status": "succeeded", "resourceLocation": "/me/onenote/notebooks/3"}
        upstream.told = [{"status": "notStarted"}, {"status": "running", "percentComplete": 40}, ended]
        options = ("--json-body", '{"renameAs": "Second"}', "--header", "Prefer: respond-async", "--json")
        status, output, errors = await gateway("start", *NOTEBOOK, *options, GATEWAY_URL=served.url, **TOKEN)
        states = [json.loads(line) for line in output.splitlines()]
        assert (status, states[0]["label"], states[-1]["status"]) == (0, "Second", "completed"), errors
        assert states[0]["jobKey"]
        assert (states[-1]["operation"], states[-1]["resource"]) == ("copyNotebook", "/v1.0/me/onenote/notebooks/3")
        method, path, headers, body = upstream.asked[0]
        assert (method, path, body) == ("POST", f"/v1.0/{NOTEBOOK[1]}", b'{"renameAs": "Second"}')
        assert (headers["Prefer"], headers["Authorization"]) == ("respond-async", "Bearer a-token-of-the-caller")
        upstream.told = [{"status": "failed", "error": {"code": "x", "message": "No."}}]
        status, _, errors = await gateway("start", *NOTEBOOK, GATEWAY_URL=served.url, **TOKEN)
        assert (status, "The operation copyNotebook failed: No (x)." in errors) == (1, True)
        assert "Content-Type" not in upstream.asked[-2][2]


@pytest.mark.parametrize(
    ("given", "arguments", "status", "shown", "told"),
    [
        ({"status": 200, "text": '{ "id": "s" }'}, (), 0, '{ "id": "s" }', "done at once"),
        ({"status": 201, "text": '{ "id": "s" }'}, ("--json",), 0, '{"id": "s"}\n', "done at once"),
        ({"status": 204}, (), 0, "", "204 No Content"),
        ({"status": 202}, (), 3, "", "named nothing to follow"),
        ({"status": 403, "text": '{"error":{"code":"accessDenied","message":"No."}}'}, (), 2, "", "ask for access"),
        ({"status": 500}, (), 3, "", "502"),
    ],
)
async def test_what_is_no_job(
    given: dict[str, Any], arguments: tuple[str, ...], status: int, shown: str, told: str, tmp_path: Path
) -> None:
    """Done at once: shown as it came. Refused, or without a status to follow: an error."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as served:
        upstream.on_copy = answering(lambda: web.Response(content_type="application/json", **given))
        found, output, errors = await gateway("start", *NOTEBOOK, *arguments, GATEWAY_URL=served.url, **TOKEN)
        assert (found, output, told in errors) == (status, shown, True), errors
        assert len(upstream.asked) == 1


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    """The gateway says what it forwards; what is written wrong goes nowhere."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as served:
        given = {"GATEWAY_URL": served.url, **TOKEN}
        status, _, errors = await gateway("start", "post", "me/messages", **given)
        assert (status, "teams/{id}/clone" in errors) == (2, True)
        for wrong in (("--json-body", "[]"), ("--header", "x"), ("--label", "")):
            status, _, errors = await gateway("start", *NOTEBOOK, *wrong, **given)
            assert (status, wrong[0] in errors) == (2, True)
        assert upstream.asked == []


async def test_a_fresh_token(tmp_path: Path) -> None:
    """Who follows is told once how to hand one in; under the job's key or the operator's the job goes on to its end."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as served:
        upstream.told = [{"status": "running"}]
        upstream.good = {"Bearer fresh"}
        async with following("start", *NOTEBOOK, "--json", GATEWAY_URL=served.url, **TOKEN) as start:
            job = json.loads(await start.line())
            url = f"{served.url}/jobs/{job['jobId']}"
            while "trouble" not in json.loads(await start.line()):
                pass
            status, _, errors = await gateway("token", url, GRAPH_TOKEN="fresh")
            assert (status, "neither GATEWAY_JOB_KEY nor" in errors) == (2, True)
            status, _, errors = await gateway("token", url, GATEWAY_JOB_KEY="wrong", GRAPH_TOKEN="fresh")
            assert (status, "rejects this key" in errors) == (2, True)
            status, output, _ = await gateway("token", url, GATEWAY_JOB_KEY=job["jobKey"], GRAPH_TOKEN="fresh")
            assert (status, f"asks for the status of {url} under this token" in output) == (0, True)
            while "trouble" in json.loads(await start.line()):
                pass
            upstream.told = [{"status": "succeeded"}]
            with anyio.fail_after(20):
                assert await start.process.wait() == 0
            assert start.errors().count(f"token {url}\n") == 1
        (tmp_path / "token").write_text("fresh")
        options = ("--token-file", str(tmp_path / "token"))
        status, _, errors = await gateway("token", url, *options, GATEWAY_OPERATOR_KEY=OPERATOR_KEY)
        assert (status, "The job needs no token" in errors) == (2, True)


async def test_a_file_whose_token_is_renewed(tmp_path: Path) -> None:
    """What is written to it while the job waits is handed in, under the job's own key."""
    token = tmp_path / "token"
    token.write_text("stale")
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as served:
        upstream.good = {"Bearer fresh"}
        async with following("start", *NOTEBOOK, "--token-file", str(token), GATEWAY_URL=served.url) as start:
            while "token required" not in await start.line():
                pass
            token.write_text("fresh")
            with anyio.fail_after(20):
                assert await start.process.wait() == 0
            said = start.errors()
        assert f"Write a fresh one to {token}, or hand it in under " in said
        assert said.count("handed in the token") == 1
        assert {*upstream.tokens()} == {"Bearer stale", "Bearer fresh"}
