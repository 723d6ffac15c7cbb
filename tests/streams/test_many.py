"""Several jobs on one stream."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.streams.test_stream import gateway_with
from tests.support.harness import OPERATOR, Event, Running, events, tail

pytestmark = pytest.mark.virtual_time


def url_of(gateway: Running, *job_ids: str) -> str:
    return f"{gateway.url}/events?" + "&".join(f"job={job_id}" for job_id in job_ids)


async def copies(gateway: Running, *seconds: float) -> list[str]:
    jobs = [
        await gateway.copy("/v1.0/me/drive/items/copy", params={"seconds": str(length), "steps": "5"})
        for length in seconds
    ]
    return [job["jobId"] for job in jobs]


def check(seen: list[Event], job_ids: list[str], start: list[int] | None = None) -> None:
    """Each job's events in order without gap, and each id the positions after its event."""
    where = list(start or [0] * len(job_ids))
    for event in seen:
        if event.name == "gone":
            continue
        place = job_ids.index(event.data["jobId"])
        where[place] += 1
        positions = event.id.split(",")
        assert positions[place] == str(where[place])
        assert [p for p in positions if p != "-"] == [
            str(at) for at, p in zip(where, positions, strict=True) if p != "-"
        ]


async def test_all_events_of_all_jobs(tmp_path: Path) -> None:
    """Composite ids in the order of the query; the stream ends with the last job; then it is 204."""
    async with gateway_with(tmp_path) as gateway:
        job_ids = await copies(gateway, 5, 20, 10)
        seen = await tail(gateway.session, url_of(gateway, *job_ids))
        check(seen, job_ids)
        assert sum(event.name == "completed" for event in seen) == 3
        last = {"Last-Event-ID": seen[-1].id}
        async with gateway.session.get(url_of(gateway, *job_ids), headers=last) as response:
            assert response.status == 204
        again = await tail(gateway.session, url_of(gateway, *job_ids), headers={"Last-Event-ID": "1,2"})
        check(again, job_ids)
        assert len(again) == len(seen)


async def test_resuming_between_any_two_events(tmp_path: Path) -> None:
    """A client that drops after each event gets each job's log once, in order."""
    async with gateway_with(tmp_path) as gateway:
        job_ids = await copies(gateway, 4, 8)
        seen: list[Event] = []
        while True:
            headers = {"Last-Event-ID": seen[-1].id} if seen else {}
            async with gateway.session.get(url_of(gateway, *job_ids), headers=headers) as response:
                if response.status == 204:
                    break
                async for event in events(response):
                    seen.append(event)
                    break
        check(seen, job_ids)
        assert sum(event.name == "completed" for event in seen) == 2


async def test_the_gone_are_told_once(tmp_path: Path) -> None:
    """`gone` with the job's id, its position a dash; the rest go on; resumed, it is not told again."""
    async with gateway_with(tmp_path) as gateway:
        (job_id,) = await copies(gateway, 5)
        url = url_of(gateway, "nobody", job_id)
        seen = await tail(gateway.session, url)
        assert (seen[0].name, seen[0].id, seen[0].data) == ("gone", "-,0", {"jobId": "nobody"})
        assert sum(event.name == "gone" for event in seen) == 1
        assert seen[1].id == "-,1"
        resumed = await tail(gateway.session, url, headers={"Last-Event-ID": "-,1"})
        assert resumed[0].id == "-,2"
        assert all(event.name != "gone" for event in resumed)
        async with gateway.session.get(url, headers={"Last-Event-ID": seen[-1].id}) as response:
            assert response.status == 204
        told_now = await tail(gateway.session, url, headers={"Last-Event-ID": f"0,{seen[-1].id.split(',')[1]}"})
        assert [event.name for event in told_now] == ["gone"]


async def test_one_to_two_hundred_different_jobs(tmp_path: Path) -> None:
    """None, too many, or one twice: 400; two hundred on one stream are fine."""
    async with gateway_with(tmp_path, poll_min=0.5, poll_max=0.5) as gateway:
        job_ids = await copies(gateway, *([5] * 200))
        for wrong in ([], [job_ids[0], job_ids[0]], [*job_ids, "one-more"]):
            async with gateway.session.get(url_of(gateway, *wrong)) as response:
                assert response.status == 400
                assert "1 to 200 different jobs" in (await response.json())["error"]["message"]
        seen = await tail(gateway.session, url_of(gateway, *job_ids))
        check(seen, job_ids)
        assert sum(event.name == "completed" for event in seen) == 200


async def test_ended_and_running_together(tmp_path: Path) -> None:
    """An ended job's log is replayed beside a running one's; a stopped one ends as failed."""
    async with gateway_with(tmp_path) as gateway:
        first, second = await copies(gateway, 2, 1000)
        await tail(gateway.session, f"{gateway.url}/jobs/{first}/events")
        async with gateway.session.get(url_of(gateway, first, second)) as response:
            seen: list[Event] = []
            async for event in events(response):
                seen.append(event)
                if event.data["jobId"] == second and event.data["status"] == "inProgress":
                    async with gateway.session.delete(f"{gateway.url}/jobs/{second}", headers=OPERATOR):
                        pass
        check(seen, [first, second])
        assert [event.name for event in seen if event.name != "progress"] == ["completed", "failed"]


async def test_heartbeats_are_not_multiplied(tmp_path: Path) -> None:
    """A stream of many quiet jobs hears about one comment each heartbeat, not one for each job."""
    async with gateway_with(tmp_path, heartbeat=10, poll_min=5, poll_max=5) as gateway:
        job_ids = await copies(gateway, *([5000] * 20))
        beats = 0
        with anyio.move_on_after(105):
            async with gateway.session.get(url_of(gateway, *job_ids)) as response:
                async for line in response.content:
                    beats += line == b":\n"
        assert 8 <= beats <= 22
