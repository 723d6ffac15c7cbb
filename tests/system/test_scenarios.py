"""Everything Graph was ever seen to answer, end to end: simulator, gateway, stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.job import kind_of
from gateway.simulator import SCENARIOS, Simulator, running
from tests.support.harness import TOKEN, serving, tail

pytestmark = pytest.mark.virtual_time

_COMPLETED = """copy completed-200 completed-303 completed-303-item rich phases all-words other-drive conflict
conflict-file location-item location-item-303 completed-then-running no-resource read-lag wrong-parent early-completed
location-relative location-long location-operations location-flip too-many throttled retry-after retry-after-none
retry-after-garbage retry-after-negative retry-after-date retry-after-running rate-limit busy busy-bare timeout-504
bandwidth-509 throttle-page redirect-foreign redirect-foreign-item redirect-broken-item expired-after glitch-404
glitch-401 unauthorized-html html error-500 empty-200 empty-202 text-plain cut-json not-an-object deep-json not-utf8
huge drip hang hang-body truncated reset
reset-body percent-fraction percent-zero percent-missing percent-null percent-text
percent-over percent-falling percent-nan percent-negative percent-wrong-type percent-twins status-case status-unknown
status-missing skewed-date doubled-keys byte-order-mark
succeeded other-words percent-progress target-resource id-encoded id-later
lying-401 lying-401-text lying-403 lying-404 lying-404-html late-404
redirect-foreign-state redirect-me-item redirect-elsewhere redirect-denied redirect-login redirect-throttle
redirect-foreign-page moved-301 moved-302 moved-307 moved-308 moved-thrice moved-303
interim-flood header-flood endless-body gzip deflate deflate-raw gzip-bomb gzip-cut coding-unknown
charset-latin-1 charset-windows charset-utf-16 charset-utf-16-le charset-quoted charset-unknown charset-unnamed
location-utf-8 location-latin-1 location-space request-id-control request-id-bytes post-202-cut
move archive-file"""

COMPLETED = _COMPLETED.split()
OF_COPIES = [name for name, scenario in SCENARIOS.items() if not scenario.for_operations]

PARTIAL = {  # status, code
    "partially-succeeded": ("partiallySucceeded", "207"),
    "completed-with-error": ("completedWithError", "accessDenied"),
    "completed-with-errors": ("completedWithErrors", "completedWithErrors"),
}

SHAREPOINT = "-2130575338, SPException"
FAILED = {  # code, origin, status
    "failed": ("nameAlreadyExists", "upstream", "failed"),
    "failed-202": ("nameAlreadyExists", "upstream", "failed"),
    "failed-details": (None, "upstream", "failed"),
    "failed-500": (None, "upstream", "failed"),
    "failed-late": (None, "upstream", "failed"),
    "failed-bare": ("failed", "upstream", "failed"),
    "delete-failed": (None, "upstream", "deleteFailed"),
    "cancelled": (None, "upstream", "cancelled"),
    "operation-not-found": ("monitorExpired", "gateway", "failed"),
    "expired-404": ("monitorExpired", "gateway", "failed"),
    "expired-410": ("monitorExpired", "gateway", "failed"),
    "teams": ("monitorUnauthorized", "gateway", "failed"),
    "rich-operation": ("monitorUnauthorized", "gateway", "failed"),
    "unauthorized": ("monitorUnauthorized", "gateway", "failed"),
    "forbidden": ("monitorUnauthorized", "gateway", "failed"),
    "connect-refused": ("monitorUnreachable", "gateway", "failed"),
    "connect-hang": ("monitorUnreachable", "gateway", "failed"),
    "canceled": ("canceled", "upstream", "canceled"),
    "submission-failed": ("submissionFailed", "upstream", "submissionFailed"),
    "invalid": ("invalid", "upstream", "invalid"),
    "error-odata": (SHAREPOINT, "upstream", "failed"),
    "error-odata-nested": (SHAREPOINT, "upstream", "failed"),
    "error-number": ("5", "upstream", "failed"),
    "error-string": ("failed", "upstream", "failed"),
    "error-json-string": ("quotaLimitReached", "upstream", "failed"),
    "error-message": ("AccessDenied", "upstream", "failed"),
    "error-result": ("500", "upstream", "failed"),
    "moved-failed": ("accessDenied", "upstream", "failed"),
    "moved-too-far": ("monitorUnreachable", "gateway", "failed"),
    "moved-ring": ("monitorUnreachable", "gateway", "failed"),
    "doubtful-401": ("monitorUnauthorized", "gateway", "failed"),
    "doubtful-404": ("monitorExpired", "gateway", "failed"),
    "retry-after-digits": ("deadlineExceeded", "gateway", "failed"),
    "stuck": ("deadlineExceeded", "gateway", "failed"),
    "stuck-not-started": ("deadlineExceeded", "gateway", "failed"),
    "retry-after-long": ("deadlineExceeded", "gateway", "failed"),
}

REFUSED = {  # the status of the POST, and the code where it is the gateway's own
    **{f"rejected-{name}": (400, None) for name in ("root", "children", "name", "400", "huge")},
    **{f"rejected-{code}": (code, None) for code in (401, 403, 404, 409, 423, 429, 501, 503, 507)},
    "label-encrypted": (423, None),
    "rejected-500": (502, None),
    "rejected-504": (502, None),
    "rejected-html": (502, None),
    **dict.fromkeys(
        ("onenote", "sync-200", "sync-201", "location-missing", "post-200-empty", "post-redirect"),
        (502, "invalidUpstreamResponse"),
    ),
    **{
        f"location-{name}": (502, "monitorHostNotAllowed")
        for name in ("http", "loopback", "loopback-6", "mapped", "link-local", "unlisted", "lookalike", "user-info")
    },
    "location-file": (502, "invalidUpstreamResponse"),
    "location-garbage": (502, None),
    "post-404-runs": (404, None),
    "post-500-runs": (502, None),
    "post-504-runs": (502, None),
    "post-reset-runs": (502, "outcomeUnknown"),
    "post-hang-runs": (502, "outcomeUnknown"),
}


def test_no_scenario_is_left_out() -> None:
    """Each has its row, and one only."""
    assert sorted([*COMPLETED, *PARTIAL, *FAILED, *REFUSED]) == sorted(OF_COPIES)


def simulator() -> Simulator:
    return Simulator(seconds=8, steps=8, clock=asyncio.get_running_loop().time)


LIMITS = {"poll_min": 0.5, "poll_max": 5.0, "poll_patience": 100, "job_deadline": 1200}


async def play(name: str, folder: Path) -> tuple[list[dict[str, Any]], Simulator]:
    async with running(simulator()) as upstream, serving(upstream.url, folder, **LIMITS) as gateway:
        job = await gateway.copy(f"/v1.0/me/drive/items/{name}", json={"name": "x"})
        seen = await tail(gateway.session, job["events"])
        async with gateway.session.get(job["events"], headers={"Last-Event-ID": seen[-1].id}) as again:
            assert again.status == 204
        assert [int(event.id) for event in seen] == list(range(1, len(seen) + 1))
        assert {event.name for event in seen[:-1]} == {"progress"}
        assert seen[-1].name == kind_of(seen[-1].data["status"])
        shown = [event.data["percentageComplete"] for event in seen]
        assert shown == sorted(shown)
        assert all(0 <= percentage <= 100 for percentage in shown)
        assert upstream.refused == 0 or name in ("teams", "rich-operation", "unauthorized", "forbidden", "glitch-401")
        assert not upstream.asked("foreign")
        assert not any(polled.authorized for polled in upstream.polls())
        return [event.data for event in seen], upstream


@pytest.mark.parametrize("name", COMPLETED)
async def test_it_completes(name: str, tmp_path: Path) -> None:
    """One completed event at 100, with the new item's id where upstream told it."""
    seen, upstream = await play(name, tmp_path)
    last = seen[-1]
    assert (last["status"], last["percentageComplete"]) == ("completed", 100.0)
    assert "error" not in last
    told = name not in ("no-resource", "redirect-broken-item", "redirect-elsewhere")
    if told:
        (operation,) = upstream.operations.values()
        assert last["resourceId"] == operation.copy.resource_id
        assert last["resource"].endswith(f"/items/{last['resourceId']}")


@pytest.mark.parametrize("name", PARTIAL)
async def test_it_completes_in_part(name: str, tmp_path: Path) -> None:
    """One completed event at 100 with upstream's word, its item, and what was left out."""
    status, code = PARTIAL[name]
    seen, upstream = await play(name, tmp_path)
    (operation,) = upstream.operations.values()
    last = seen[-1]
    assert (last["status"], last["percentageComplete"]) == (status, 100.0)
    assert last["resourceId"] == operation.copy.resource_id
    assert (last["error"]["code"], last["error"]["origin"]) == (code, "upstream")
    assert last["error"]["message"]


@pytest.mark.parametrize("name", FAILED)
async def test_it_fails(name: str, tmp_path: Path) -> None:
    """One failed event that says whose failure it was, and why."""
    code, origin, status = FAILED[name]
    seen, _ = await play(name, tmp_path)
    assert seen[-1]["status"] == status
    error = seen[-1]["error"]
    assert error["origin"] == origin
    assert error["message"]
    assert error["code"] == code if code is not None else error["code"]


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_not_started(name: str, tmp_path: Path) -> None:
    """The POST's status, upstream's error or the gateway's, no job, and no second POST."""
    status, code = REFUSED[name]
    async with running(simulator()) as upstream, serving(upstream.url, tmp_path) as gateway:
        async with gateway.session.post(
            f"{gateway.url}/v1.0/me/drive/items/{name}/copy", json={"name": "x"}, headers=TOKEN
        ) as response:
            body = await response.read()
        assert response.status == status, body
        if code is not None:
            assert (await response.json())["error"]["code"] == code
            assert b"may be running" in body
        assert len(upstream.asked("copy")) == 1
        assert not upstream.polls()


@pytest.mark.parametrize(
    "lie", ["401", "401-plain", "401-text", "403", "404", "404-html", "404-plain", "429", "500", "503", "hang", "reset"]
)
async def test_a_host_that_lies_for_a_while_costs_no_job(lie: str, tmp_path: Path) -> None:
    """Jobs that were well before it begins complete after it, whatever it says to all of them."""
    async with running(simulator()) as upstream, serving(upstream.url, tmp_path, **LIMITS) as gateway:
        jobs = [await gateway.copy("/v1.0/me/drive/items/copy") for _ in range(4)]
        await asyncio.sleep(4)
        async with gateway.session.post(f"{upstream.url}/lie?seconds=45&answer={lie}") as response:
            assert response.status == 200
        for job in jobs:
            *_, last = await tail(gateway.session, job["events"])
            assert (last.name, last.data["status"]) == ("completed", "completed")


SIBLINGS: dict[str, tuple[str, str, Any]] = {  # method, what follows the item, and the body of each
    "ItemMove": ("PATCH", "", {"parentReference": {"path": "/drive/root:/Documents"}}),
    "ItemArchive": ("POST", "/archive", None),
    "ItemUnarchive": ("POST", "/microsoft.graph.unarchive", None),
    "AssignSensitivityLabel": ("POST", "/assignSensitivityLabel", {"sensitivityLabelId": ""}),
}


@pytest.mark.parametrize("operation", SIBLINGS)
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("move", "completed"),
        ("phases", "completed"),
        ("throttled", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
    ],
)
async def test_a_sibling_of_a_copy(operation: str, name: str, last: str, tmp_path: Path) -> None:
    """Its own name in every event, one end, and the item as its result, which is read here."""
    method, end, body = SIBLINGS[operation]
    async with running(simulator()) as upstream, serving(upstream.url, tmp_path, **LIMITS) as gateway:
        url = f"{gateway.url}/v1.0/me/drive/items/{name}{end}"
        headers = {**TOKEN, "Prefer": "respond-async"}
        async with gateway.session.request(method, url, json=body, headers=headers) as response:
            job = await response.json()
            assert response.status == 202, job
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert {state["operation"] for state in seen} == {operation}
        assert [state["status"] for state in seen].count(last) == 1
        assert seen[-1]["status"] == last
        assert not any(polled.authorized for polled in upstream.polls())
        if last == "completed":
            assert seen[-1]["resource"] == f"/v1.0/me/drive/items/{name}"
            async with gateway.session.get(gateway.url + seen[-1]["resource"], headers=TOKEN) as response:
                assert (await response.json())["id"] == name


@pytest.mark.parametrize(
    ("method", "path", "body", "prefer", "status"),
    [
        ("PATCH", "01MOWKYVREPORT", {"parentReference": {"id": "01MOWKYVDOCUMENTS"}, "name": "b"}, "", 200),
        ("PATCH", "01MOWKYVREPORT", {"parentReference": {"driveId": "b!library"}}, "", 400),
        ("POST", "01MOWKYVREPORT/archive", None, "", 204),
        ("POST", "01MOWKYVREPORT/unarchive", None, "", 200),
        ("POST", "01MOWKYVLARGEFOLDER1/archive", None, "", 400),
        ("POST", "label-encrypted/assignSensitivityLabel", {"sensitivityLabelId": "x"}, "respond-async", 423),
    ],
)
async def test_a_sibling_that_is_done_or_refused_at_once(
    method: str, path: str, body: Any, prefer: str, status: int, tmp_path: Path
) -> None:
    """What upstream answers, and no job."""
    async with running(simulator()) as upstream, serving(upstream.url, tmp_path) as gateway:
        answers = []
        headers = {**TOKEN, "Prefer": prefer} if prefer else TOKEN
        for base in (gateway.url, upstream.url):  # a second move or archive changes nothing more
            url = f"{base}/v1.0/me/drive/items/{path}"
            async with gateway.session.request(method, url, json=body, headers=headers) as response:
                value = await response.json() if response.status != 204 else {}
                value.get("error", {}).pop("innerError", None)
                answers.append((response.status, value, response.headers.get("ETag")))
        assert answers[0] == answers[1]
        assert answers[0][0] == status
        assert not upstream.operations


async def test_the_exchange_of_the_source_document(tmp_path: Path) -> None:
    """Byte for byte upstream, and 27.8 … 100, completed, the item here."""
    async with running(simulator()) as upstream, serving(upstream.url, tmp_path, poll_min=5, poll_max=5) as gateway:
        parent = b'  "parentReference": {\n    "path": "/drive/root:/Documents"\n  },\n'
        body = b"{\n" + parent + b'  "name": "Copy of LargeFolder1"\n}'
        job = await gateway.copy(
            "/beta/me/drive/items/01MOWKYVLARGEFOLDER1",
            json=None,
            data=body,
            headers={**TOKEN, "Content-Type": "application/json"},
            params={"seconds": "18", "steps": "18"},
        )
        (asked,) = upstream.asked("copy")
        assert (asked.path, asked.body) == ("/beta/me/drive/items/01MOWKYVLARGEFOLDER1/copy", body)
        assert asked.headers["authorization"] == TOKEN["Authorization"]
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert seen[1]["percentageComplete"] == 27.8
        assert seen[-1]["resourceId"] == "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
        assert seen[-1]["resource"] == "/beta/me/drive/items/01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
        async with gateway.session.get(gateway.url + seen[-1]["resource"], headers=TOKEN) as response:
            assert (response.status, (await response.json())["name"]) == (200, "Copy of LargeFolder1")
