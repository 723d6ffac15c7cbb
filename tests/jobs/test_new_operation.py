"""An operation that is one more row of the table: nothing else of the gateway has to know of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.graph import operations
from gateway.graph.operations import OPERATIONS, READ, Operation
from tests.jobs.test_operations import Operations
from tests.jobs.test_siblings import ask, started
from tests.support.fake_upstream import serving_fake
from tests.support.harness import TOKEN, serving, tail

pytestmark = pytest.mark.virtual_time

ROW = Operation(
    action="mergePlans",
    method="POST",
    path="planner/plans/{id}/mergePlans",
    name="mergePlans",
    label="title",
    asks_for_token=True,
    shortest=10,
)


async def test_a_new_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request goes upstream as it is, its status is polled under the token, and its job ends."""
    monkeypatch.setattr(operations, "_NAMED", {**operations._NAMED, ROW.action: ROW})
    monkeypatch.setattr(operations, "_PATTERNS", operations.patterns_of((READ, *OPERATIONS, ROW)))
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.headers = {"Location": "/v1.0/planner/operations/7"}
        upstream.told[-1] |= {"resourceLocation": "/planner/plans/p2"}
        path, body = "/v1.0/planner/plans/p%21/microsoft.graph.mergePlans", b'{"title": "Both"}'
        status, job, _ = await ask(gateway, "POST", path, body)
        assert (status, job["operation"], job["label"]) == (202, "mergePlans", "Both")
        assert [(one[1], one[3]) for one in started(upstream)] == [(path, body)]
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert (last["status"], last["resource"]) == ("completed", "/v1.0/planner/plans/p2")
        assert upstream.tokens() == [TOKEN["Authorization"]] * 2
        assert set(upstream.places()) == {"/v1.0/planner/operations/7"}
