"""The job machine: tables, and properties over any order of answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import LostCode
from gateway.core.job import (
    COMPLETED,
    FAILED,
    PARTIAL,
    RUNNING,
    STATUSES,
    Answer,
    Event,
    Job,
    JobError,
    Target,
    Trouble,
    accepted,
    advance,
    iso,
    kind_of,
    known_status,
    lose_track,
    reference,
)
from gateway.graph.operations import parse

NOW = 1_790_000_000.5
LOST: tuple[LostCode, ...] = (
    "monitorExpired",
    "monitorUnauthorized",
    "monitorUnreachable",
    "deadlineExceeded",
    "watchStopped",
)


def new(**target: str) -> Job:
    job, _ = accepted("j", monitor="https://h/m", target=Target(**target), now=NOW)
    return job


def test_a_job_begins_with_event_1() -> None:
    """Event 1 is notStarted at 0.0, and carries the whole state."""
    job, (event,) = accepted("j", monitor="https://h/m", target=Target(), now=NOW)
    assert (event.seq, event.kind, event.status_changed) == (1, "progress", True)
    assert event.data == (
        b'{"jobId":"j","operation":"ItemCopy","status":"notStarted","percentageComplete":0.0,'
        b'"at":"2026-09-21T14:13:20.500Z"}'
    )
    assert job.monitor == "https://h/m"
    assert event.body() == b"event: progress\ndata: " + event.data + b"\n\n"


@pytest.mark.parametrize("status", [*RUNNING, *COMPLETED, *FAILED, "paused"])
def test_words_and_their_kinds(status: str) -> None:
    """Every word and any other: running, completed or failed."""
    job, events = advance(new(prefix="me/drive"), Answer(status=status, percentage=5.0), NOW + 1)
    kind = "completed" if status in COMPLETED else "failed" if status in FAILED else "progress"
    assert kind_of(status) == kind
    assert [event.kind for event in events] == [kind]
    assert job.state.status == status
    assert job.state.percentage_complete == (100.0 if kind == "completed" else 5.0)
    assert (job.state.error is not None) == (kind == "failed" or status in PARTIAL)
    assert (job.monitor is None) == job.state.ended == (job.ended is not None)


def test_words_in_any_case_come_out_in_graphs_spelling() -> None:
    """One of them has another name: what siblings call succeeded is completed."""
    for word in STATUSES:
        assert {known_status(spelt) for spelt in (word, word.upper(), f" {word.lower()}\n")} == {word}
    assert known_status("Succeeded") == "completed"
    assert known_status("paused") is None
    assert len(STATUSES) == len(set(STATUSES)) == len({*RUNNING, *COMPLETED, *FAILED})


def test_an_event_only_when_something_changed() -> None:
    """The same answer again adds nothing; a change of any field but the time adds one event."""
    answer = Answer(status="inProgress", percentage=10.0, description="a")
    job, events = advance(new(), answer, NOW)
    assert len(events) == 1
    assert advance(job, answer, NOW + 9) == (job, [])
    _, (event,) = advance(job, Answer(status="inProgress", percentage=10.0, description="b"), NOW + 9)
    assert event.status_changed is False


@pytest.mark.parametrize(
    ("told", "drive", "resource"),
    [
        (None, None, "/v1.0/me/drive/items/01A"),
        ("01B", None, "/v1.0/me/drive/items/01B"),
        ("01B", "b!1", "/v1.0/drives/b!1/items/01B"),
    ],
)
def test_the_result_of_a_job_that_changes_its_item(told: str | None, drive: str | None, resource: str) -> None:
    """The request's item once it has completed, unless upstream names another; none before, and none if it failed."""
    job = new(prefix="me/drive", item_id="01A")
    running, _ = advance(job, Answer(status="inProgress", percentage=1.0), NOW)
    assert (running.state.resource_id, running.state.resource) == (None, None)
    failed, _ = advance(running, Answer(status="failed"), NOW)
    assert (failed.state.resource_id, failed.state.resource) == (None, None)
    done, _ = advance(running, Answer(status="completed", resource_id=told, drive_id=drive), NOW)
    assert (done.state.resource_id, done.state.resource) == (told or "01A", resource)


def test_a_label_stays() -> None:
    """From the first event to the last, whoever ends the job."""
    job, (first,) = accepted("j", monitor="https://h/m", target=Target(), now=NOW, label="a \u00e4")
    moved, (second,) = advance(job, Answer(status="inProgress", percentage=1.0), NOW)
    _, (third,) = advance(moved, Answer(status="completed"), NOW)
    _, (lost,) = lose_track(moved, "watchStopped", NOW)
    for event in (first, second, third, lost):
        assert msgspec.json.decode(event.data)["label"] == "a \u00e4"


RICH = Answer(
    status="inProgress",
    percentage=10.0,
    operation="ItemCopy",
    description="a",
    resource_id="01A",
    drive_id="b!1",
    retry_after=3.0,
)


@pytest.mark.parametrize(
    ("change", "events"),
    [
        ({"status": "waiting"}, 1),
        ({"percentage": 11.0}, 1),
        ({"operation": "DownloadUrl"}, 1),
        ({"description": "b"}, 1),
        ({"description": None}, 1),
        ({"resource_id": "01B"}, 1),
        ({"drive_id": "b!2"}, 1),
        ({"retry_after": 60.0}, 0),
        ({"status": None}, 0),
        ({"percentage": None}, 0),
        ({"percentage": 9.0}, 0),
        ({"operation": None}, 0),
        ({"resource_id": None}, 0),
        ({"drive_id": None}, 0),
        ({"error": JobError("x", "y", "upstream")}, 0),
    ],
)
def test_which_change_is_an_event(change: dict[str, Any], events: int) -> None:
    """Any field that is shown counts, but the time; what an answer leaves out is no change."""
    job, _ = advance(new(prefix="me/drive"), RICH, NOW)
    moved, added = advance(job, msgspec.structs.replace(RICH, **change), NOW + 60)
    assert len(added) == events
    assert moved.seq == job.seq + events
    assert moved.state.at == (iso(NOW + 60) if events else iso(NOW))
    assert [event.status_changed for event in added] == [change.keys() == {"status"}] * events


def test_a_drive_once_named_still_holds_when_a_later_answer_leaves_it_out() -> None:
    """The result does not move back into the request's own drive."""
    job, _ = advance(new(prefix="me/drive"), RICH, NOW)
    job, _ = advance(job, Answer(status="completed", resource_id="01A"), NOW)
    assert job.state.resource == "/v1.0/drives/b!1/items/01A"


@pytest.mark.parametrize("ending", [*COMPLETED, *FAILED, *LOST])
@pytest.mark.parametrize("after", [*RUNNING, *COMPLETED, *FAILED, "paused", *LOST])
def test_a_terminal_state_absorbs(ending: str, after: str) -> None:
    """Nothing follows an end, whatever a monitor or the gateway says afterwards."""

    def step(job: Job, word: str) -> tuple[Job, list[Event]]:
        if word in LOST:
            return lose_track(job, word, NOW + 9)
        return advance(job, Answer(status=word, percentage=99.0, description="late", resource_id="01Z"), NOW + 9)

    ended, _ = step(new(), ending)
    assert ended.state.ended
    assert step(ended, after) == (ended, [])


def test_losing_sight_keeps_what_was_seen() -> None:
    """The percentage and the result's place as far as they were known; only the verdict is new."""
    job, _ = advance(new(prefix="me/drive"), RICH, NOW)
    lost, _ = lose_track(job, "monitorUnreachable", NOW)
    kept = msgspec.structs.replace(lost.state, status="inProgress", error=None)
    assert kept == job.state
    assert lost.monitor is None


def test_a_percentage_never_falls_and_a_missing_one_stays() -> None:
    """What was once shown is not taken back."""
    job, _ = advance(new(), Answer(status="inProgress", percentage=40.0), NOW)
    job, events = advance(job, Answer(status="inProgress", percentage=30.0), NOW)
    assert events == []
    job, _ = advance(job, Answer(status="waiting"), NOW)
    assert job.state.percentage_complete == 40.0


@pytest.mark.parametrize(
    ("target", "drive", "resource"),
    [
        ({"prefix": "me/drive"}, None, "/v1.0/me/drive/items/01A!x"),
        ({"prefix": "me/drive", "version": "beta"}, None, "/beta/me/drive/items/01A!x"),
        ({"prefix": "users/u/drives/b!1"}, None, "/v1.0/users/u/drives/b!1/items/01A!x"),
        ({"prefix": "me/drive", "drive_id": "b!2"}, None, "/v1.0/drives/b!2/items/01A!x"),
        ({"prefix": "me/drive", "drive_id": "b!2"}, "b!3", "/v1.0/drives/b!3/items/01A!x"),
        ({}, "a/b", "/v1.0/drives/a%2Fb/items/01A!x"),
        ({}, None, None),
    ],
)
def test_where_the_result_is_read(target: dict[str, str], drive: str | None, resource: str | None) -> None:
    """The drive of the result's location, else the one asked for, else the request's own; else nowhere."""
    job, _ = advance(new(**target), Answer(status="completed", resource_id="01A!x", drive_id=drive), NOW)
    assert job.state.resource == resource
    assert job.state.resource_id == "01A!x"


@pytest.mark.parametrize("version", ["v1.0", "beta"])
@pytest.mark.parametrize(
    "drive",
    [
        "me/drive",
        "me/drives/b!1",
        "drives/b!1,x",
        *(f"{owner}/a%40b,c/{drive}" for owner in ("users", "groups", "sites") for drive in ("drive", "drives/b!1")),
    ],
)
@pytest.mark.parametrize("item", ["items/01A", "root", "root:/a/b:", "items/01A:/x:"])
@pytest.mark.parametrize("named", [None, "b!9"])
def test_the_result_can_be_read_through_the_gateway(version: str, drive: str, item: str, named: str | None) -> None:
    """Under each form of address: the same version, the named drive or the request's own, byte for byte."""
    asked = parse("POST", f"/{version}/{drive}/{item}/copy")
    target = Target(version=asked.version, prefix=asked.prefix)
    resource = target.resource("01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM", named)
    assert resource is not None
    prefix = f"drives/{named}" if named else drive
    assert resource == f"/{version}/{prefix}/items/01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
    read = parse("GET", resource)
    assert (read.version, read.prefix) == (version, prefix)


@given(st.text(min_size=1, max_size=20))
def test_no_id_climbs_out_of_its_segment(item_id: str) -> None:
    """An id from upstream is one segment of the path, whatever it holds."""
    resource = Target(prefix="me/drive").resource(item_id, None)
    assert resource is not None
    assert resource.startswith("/v1.0/me/drive/items/")
    assert resource.count("/") == 5
    assert not set(resource) & set("?#\\ \n")
    assert unquote(resource.rpartition("/")[2]) == item_id


@pytest.mark.parametrize("code", LOST)
def test_losing_sight_is_a_failure_of_the_gateways(code: LostCode) -> None:
    """The gateway's own codes say that the copy itself may have gone on."""
    job, (event,) = lose_track(new(), code, NOW)
    assert event.kind == "failed"
    assert job.state.status == "failed"
    assert job.state.error is not None
    assert (job.state.error.code, job.state.error.origin) == (code, "gateway")
    assert "may have gone on" in job.state.error.message
    assert lose_track(job, "deadlineExceeded", NOW) == (job, [])


def test_a_failed_job_without_a_reason_still_has_an_error() -> None:
    """The status word stands in for a code."""
    job, _ = advance(new(), Answer(status="cancelled"), NOW)
    assert job.state.error == JobError("cancelled", "Upstream ended the job as cancelled.", "upstream")


def test_what_was_left_out_of_a_completed_job() -> None:
    """Upstream's error, or its word; a job that completed as a whole has none."""
    error = JobError("207", "3 items were skipped", "upstream")
    job, (event,) = advance(new(), Answer(status="partiallySucceeded", error=error), NOW)
    assert (event.kind, job.state.error, job.state.percentage_complete) == ("completed", error, 100.0)
    job, _ = advance(new(), Answer(status="completedWithErrors"), NOW)
    assert job.state.error == JobError(
        "completedWithErrors", "Upstream ended the job as completedWithErrors.", "upstream"
    )
    job, _ = advance(new(), Answer(status="completed", error=error), NOW)
    assert job.state.error is None


def test_times_and_references() -> None:
    """Times are UTC with milliseconds; a reference is short and is not the id."""
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert len(reference("secret-job-id")) == 8
    assert reference("secret-job-id") not in "secret-job-id"


@given(st.floats(-1e9, 4e9))
def test_a_time_is_what_datetime_makes_of_it(now: float) -> None:
    """At any fraction of a second."""
    expected = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert iso(now) == expected


ANSWERS = st.builds(
    Answer,
    status=st.sampled_from([None, *RUNNING, *COMPLETED, *FAILED, "paused"]),
    percentage=st.none() | st.floats(0, 100),
    description=st.none() | st.text(max_size=3),
    resource_id=st.none() | st.just("01A"),
)


@given(st.lists(ANSWERS | st.sampled_from(LOST), max_size=12))
def test_any_order_of_answers_gives_a_proper_log(steps: list[Answer | LostCode]) -> None:
    """Numbers rise by one, percentages never fall, one terminal event at most, and nothing follows it."""
    job, log = accepted("j", monitor="https://h/m", target=Target(prefix="me/drive"), now=NOW)
    for step in steps:
        job, events = advance(job, step, NOW) if isinstance(step, Answer) else lose_track(job, step, NOW)
        log += events
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert not any(event.terminal for event in log[:-1])
    assert log[-1].terminal == job.state.ended
    shown = [msgspec.json.decode(event.data)["percentageComplete"] for event in log]
    assert shown == sorted(shown)
    assert log[-1].data == msgspec.json.encode(job.state)


@pytest.mark.parametrize(
    ("until", "clock", "wait"),
    [(None, 1000, 0), (1060, 1000, 60), (1060, 1050, 10), (1060, 1061, 0), (1060, 900, 60), (1060, -1e9, 60)],
)
def test_how_long_upstream_asks_to_wait(until: float | None, clock: float, wait: float) -> None:
    """Until the time that was told; no longer than it asked for, where the clock was set back."""
    told = Trouble(code="throttled", since=iso(1000), retry_at=None if until is None else iso(until))
    assert told.asked_wait(clock) == wait
