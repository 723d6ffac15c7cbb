"""When the gateway has lost a monitor, and the trouble that watchers are told until then."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.job import Answer, Trouble, iso
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled
from gateway.jobs.host import HostHealth, well_elsewhere_at
from gateway.jobs.loss import (
    UNSEEN_MONITOR,
    WELL,
    LossState,
    LostTrack,
    Patience,
    judge,
    patience_left,
    trouble_told,
    update,
    with_requested_wait,
)
from gateway.jobs.schedule import UNSEEN, Bounds, next_wait
from tests.support.examples import examples

PATIENCE = Patience(silent=1800.0, doubtful=300.0)
GOOD = Answer(status="inProgress")
GONE, DENIED = Lost("monitorExpired", plain=True), Lost("monitorUnauthorized", plain=True)
GONE_PAGE, DENIED_PAGE = Lost("monitorExpired", plain=False), Lost("monitorUnauthorized", plain=False)
BROKEN, THROTTLED = NoAnswer("refused"), Throttled()


def well(_since: float) -> float:
    return -math.inf


def verdict_of(
    steps: list[tuple[float, Observation]], start: LossState = WELL, patience: Patience = PATIENCE
) -> tuple[LostTrack | None, float]:
    """The verdict after the last of the answers, each sent and received at its time, on a host that is well."""
    loss, verdict = start, (None, math.inf)
    for at, observed in steps:
        assert verdict[0] is None, "decided before the last answer"
        loss = update(loss, observed, at, at)
        verdict = judge(loss, at, at, patience, well)  # type: ignore[assignment]
    return verdict


@pytest.mark.parametrize(
    ("steps", "start", "verdict"),
    [
        ([(0, GONE), (14.9, GONE)], WELL, None),
        ([(0, GONE), (15, GONE)], WELL, "monitorExpired"),
        ([(0, GONE), (5, GONE), (10, GONE), (15, GONE)], WELL, "monitorExpired"),
        ([(0, DENIED), (59.9, DENIED)], WELL, None),
        ([(0, DENIED), (60, DENIED)], WELL, "monitorUnauthorized"),
        ([(0, GONE), (59.9, GONE)], UNSEEN_MONITOR, None),
        ([(0, GONE), (60, GONE)], UNSEEN_MONITOR, "monitorExpired"),
        ([(0, DENIED), (60, DENIED)], UNSEEN_MONITOR, "monitorUnauthorized"),
        ([(0, GONE_PAGE), (299.9, GONE_PAGE)], WELL, None),
        ([(0, GONE_PAGE), (300, GONE_PAGE)], WELL, "monitorExpired"),
        ([(0, DENIED_PAGE), (300, DENIED_PAGE)], UNSEEN_MONITOR, "monitorUnauthorized"),
        ([(0, GONE_PAGE), (10, GONE), (24.9, GONE)], WELL, None),
        ([(0, GONE_PAGE), (10, GONE), (25, GONE)], WELL, "monitorExpired"),
        ([(0, GONE), (10, GONE_PAGE), (20, GONE), (34, GONE)], WELL, None),
        ([(0, GONE), (10, GONE_PAGE), (20, GONE), (35, GONE)], WELL, "monitorExpired"),
        ([(0, GONE), (14, DENIED), (28, GONE), (42, DENIED)], WELL, None),
        ([(at * 14.0, GONE if at % 2 else DENIED) for at in range(23)], WELL, "monitorUnauthorized"),
        *(([(0, GONE), (8, between), (16, GONE)], WELL, None) for between in (GOOD, BROKEN, THROTTLED)),
        *(([(0, GONE), (8, between), (16, GONE), (31, GONE)], WELL, "monitorExpired") for between in (GOOD, BROKEN)),
        *(([(0, DENIED_PAGE), (150, between), (301, DENIED_PAGE)], WELL, None) for between in (GOOD, BROKEN)),
        ([(0, BROKEN), (1799, BROKEN)], WELL, None),
        ([(0, BROKEN), (1800, BROKEN)], WELL, "monitorUnreachable"),
        ([(0, BROKEN), (1000, DENIED_PAGE), (1700, THROTTLED), (1801, BROKEN)], WELL, "monitorUnreachable"),
        ([(0, BROKEN), (1801, DENIED_PAGE)], WELL, None),
    ],
)
def test_the_verdict(steps: list[tuple[float, Observation]], start: LossState, verdict: str | None) -> None:
    """Plain answers take 15 s in a row, 60 s after 401 or 403 or from a monitor never seen well; doubtful ones 300 s.
    Any other answer between begins the row anew; a silence goes on through answers that tell nothing good.
    """
    assert verdict_of(steps, start)[0] == verdict


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([(0, GONE), (14.9, GONE)], None),
        ([(0, GONE), (15, GONE)], "monitorExpired"),
        ([(0, DENIED), (59.9, DENIED)], None),
        ([(0, DENIED), (60, DENIED)], "monitorUnauthorized"),
        ([(0, DENIED_PAGE), (5, DENIED_PAGE)], "monitorUnauthorized"),
    ],
)
def test_a_small_patience_is_for_doubtful_answers(steps: list[tuple[float, Observation]], verdict: str | None) -> None:
    """Plain ones take as long as ever."""
    assert verdict_of(steps, patience=Patience(silent=1800.0, doubtful=5.0))[0] == verdict


@pytest.mark.parametrize(
    ("steps", "start", "seconds"),
    [
        ([(0, GOOD)], WELL, math.inf),
        ([(0, GONE)], WELL, 5),
        ([(0, GONE), (12, GONE)], WELL, 3),
        ([(0, GONE)], UNSEEN_MONITOR, 20),
        ([(0, DENIED), (45, DENIED)], WELL, 15),
        ([(0, GONE_PAGE), (100, GONE_PAGE)], WELL, 200),
        ([(0, GONE_PAGE), (290, DENIED)], WELL, 10),
        ([(0, BROKEN), (100, BROKEN)], WELL, 1700),
    ],
)
def test_the_seconds_until_a_verdict(steps: list[tuple[float, Observation]], start: LossState, seconds: float) -> None:
    """No verdict waits for a longer wait, nor falls after two answers alone."""
    assert verdict_of(steps, start) == (None, seconds)


def test_the_time_runs_from_an_answer_to_a_question() -> None:
    """An answer that was long under way does not count as one that came later."""
    loss = update(WELL, GONE, 0, 9)
    loss = update(loss, GONE, 16, 30)
    assert judge(loss, 16, 30, PATIENCE, well)[0] is None
    loss = update(loss, GONE, 30, 30)
    assert judge(loss, 30, 30, PATIENCE, well)[0] == "monitorExpired"


def test_a_host_in_trouble_makes_plain_answers_doubtful() -> None:
    """The verdict waits for the host, and for the larger patience at most."""
    loss = update(update(WELL, GONE, 0, 0), GONE, 20, 20)
    assert judge(loss, 20, 20, PATIENCE, lambda _: 45.0) == (None, 25.0)
    assert judge(loss, 20, 20, PATIENCE, lambda _: 900.0) == (None, 280.0)
    assert judge(loss, 20, 20, PATIENCE, lambda _: 20.0)[0] == "monitorExpired"
    loss = update(loss, GONE, 300, 300)
    assert judge(loss, 300, 300, PATIENCE, lambda _: 900.0)[0] == "monitorExpired"


def test_waits_that_upstream_asked_for_are_not_counted() -> None:
    """A Retry-After of an hour does not use up half an hour of patience."""
    loss = with_requested_wait(update(WELL, Throttled(3600), 0, 0), 3600)
    assert patience_left(loss, 3600, 1800) == 1800
    loss = update(loss, BROKEN, 3600, 3610)
    assert patience_left(loss, 3610, 1800) == 1790
    assert with_requested_wait(WELL, 3600) is WELL


def health(jobs: Mapping[str, Sequence[tuple[float, Observation]]]) -> HostHealth:
    found = HostHealth()
    for job_id in jobs:
        found.join(job_id)
    heard = sorted((at, job_id, n) for job_id, answers in jobs.items() for n, (at, _) in enumerate(answers))
    for at, job_id, n in heard:
        found.heard(job_id, jobs[job_id][n][1], at)
    return found


LOSES: list[tuple[float, Observation]] = [(20.0, GONE)]
FINE: list[tuple[float, Observation]] = [(20.0, GOOD)]


@pytest.mark.parametrize(
    ("others", "well_at"),
    [
        ([], 30),
        ([LOSES], 30),
        ([LOSES, FINE], 30),
        ([LOSES, FINE, FINE, FINE], 30),
        ([LOSES, LOSES], 80),
        ([LOSES, LOSES, FINE], 80),
        ([LOSES, LOSES, FINE, FINE, FINE], 30),
        ([[(20.0, DENIED_PAGE)], LOSES], 80),
        ([[(5.0, DENIED_PAGE), (25.0, GOOD)], LOSES], 65),
        ([[(-40.0, DENIED_PAGE), (25.0, GOOD)], LOSES], 30),
        ([[(20.0, BROKEN)], LOSES], 90),
        ([[(20.0, THROTTLED)], [(20.0, BROKEN)]], 90),
        ([[(-900.0, Throttled(3600))], [(-900.0, GONE)]], 90),
        ([[(20.0, THROTTLED)], FINE], 30),
        ([[], []], 35),
        ([[(9.0, GOOD)], [(9.0, GOOD)]], 35),
        ([[(9.0, GOOD)], [(11.0, GOOD)]], 30),
        ([[], FINE, FINE], 30),
    ],
)
def test_when_a_host_counts_as_well(others: list[list[tuple[float, Observation]]], well_at: float) -> None:
    """At 30 for a job that was told since 10 that it is lost. Most, three at least, must not have heard the same within
    a minute; who was not asked since is waited for.
    """
    jobs: dict[str, list[tuple[float, Observation]]] = {"own": [(10.0, GONE), (30.0, GONE)]}
    jobs |= {f"{n}": heard for n, heard in enumerate(others)}
    assert health(jobs).well_at(10.0, 30.0) == well_at


def test_jobs_that_rest_are_waited_for_a_minute_at_most() -> None:
    """Their good answer may have asked them to rest for a day; the others must not wait that long."""
    found = health({"own": [(10.0, GONE)], "a": [], "b": []})
    assert found.well_at(10.0, 67.0) == 70.0
    assert found.well_at(10.0, 70.0) == 70.0


def test_jobs_that_ended_are_forgotten() -> None:
    """What they heard says nothing about those that still run."""
    found = health({"own": LOSES, "a": LOSES, "b": LOSES})
    assert found.losing(30.0) == 3
    assert not found.leave("a")
    found.heard("a", GONE, 31.0)
    assert (found.jobs, found.losing(31.0), found.losing(80.0)) == (2, 2, 0)
    assert not found.leave("b")
    assert found.leave("own")


@pytest.mark.parametrize(
    ("jobs", "troubled", "now", "well_at"),
    [
        (1, 1, 20.0, 20.0),
        (2, 2, 20.0, 20.0),
        (3, 1, 20.0, 70.0),
        (3, 2, 20.0, 70.0),
        (3, 3, 20.0, 25.0),
        (3, 3, 90.0, 95.0),
        (6, 3, 69.0, 70.0),
        (6, 3, 70.0, 70.0),
        (6, 4, 70.0, 75.0),
        (500, 2, 80.0, 80.0),
    ],
)
def test_jobs_of_the_host_that_other_gateways_poll(jobs: int, troubled: int, now: float, well_at: float) -> None:
    """For a job that was told since 10 that it is lost: the others have a minute to hear the same."""
    assert well_elsewhere_at(jobs, troubled, 10.0, now) == well_at


TOLD = Trouble(code="throttled", since="1970-01-01T00:00:01.000Z")


@pytest.mark.parametrize(
    ("answers", "told", "trouble"),
    [
        ([GOOD], TOLD, None),
        ([THROTTLED], None, None),
        ([THROTTLED, THROTTLED], None, ("throttled", 0, None)),
        ([Throttled(9.9)], None, None),
        ([Throttled(10.0)], None, ("throttled", 0, 10)),
        ([BROKEN, BROKEN], None, ("unreachable", 0, None)),
        ([DENIED_PAGE, GONE], None, ("doubted", 0, None)),
        ([Lost("monitorExpired", plain=True, retry_after=30)], None, ("doubted", 0, 30)),
        ([BROKEN, THROTTLED], None, ("throttled", 1, None)),
        ([THROTTLED, GOOD, THROTTLED], None, None),
        ([Throttled(30)], TOLD, TOLD),
        ([BROKEN], TOLD, TOLD),
        ([BROKEN, BROKEN], TOLD, ("unreachable", 0, None)),
        ([BROKEN, THROTTLED, BROKEN], TOLD, TOLD),
        ([NoAnswer("HTTP 500", 60)], TOLD, ("unreachable", 0, 60)),
    ],
)
def test_the_trouble_told(
    answers: list[Observation], told: Trouble | None, trouble: tuple[str, int, float | None] | Trouble | None
) -> None:
    """It comes with the second answer in a row that is not good, or the first that asks for 10 s; it changes likewise,
    and goes with a good one. An answer a second, from the second 0 of 1970 on.
    """
    loss = WELL
    for n, observed in enumerate(answers):
        loss = update(loss, observed, n, n)
        told = trouble_told(told, loss, observed.retry_after, n, n)
    if isinstance(trouble, tuple):
        code, since, retry = trouble
        at = len(answers) - 1
        assert told is not None
        assert (told.code, told.since) == (code, f"1970-01-01T00:00:{since:02}.000Z")
        assert told.retry_at == (None if retry is None else iso(at + retry))
    else:
        assert told == trouble


@dataclass
class Fault:
    """A time in which a host answers all of its jobs wrongly."""

    begins: float
    seconds: float
    answers: list[Observation]

    def holds(self, at: float) -> bool:
        return self.begins <= at < self.begins + self.seconds


@dataclass
class World:
    """Jobs of one host, polled as the gateway does, in made-up time. `gone` says from when a job really is."""

    jobs: int
    faults: list[Fault]
    gone: dict[int, float]
    restarts: list[float]
    seed: int
    age: float
    verdicts: dict[int, tuple[str, float]] = field(default_factory=dict)
    first_plain: dict[int, float] = field(default_factory=dict)

    def run(self, until: float) -> None:
        rng = random.Random(self.seed)
        bounds = Bounds(0.5, 30.0)
        order = count()
        host, states = HostHealth(), [UNSEEN_MONITOR] * self.jobs
        born = [-rng.uniform(0, self.age) for _ in states]
        polls: list[tuple[float, int, int]] = []

        def begin(now: float) -> None:
            polls.clear()
            for job in range(self.jobs):
                if job not in self.verdicts:
                    host.join(str(job))
                    heapq.heappush(polls, (now + rng.uniform(0, 30), next(order), job))

        begin(0.0)
        restarts = sorted(self.restarts)
        while polls:
            sent, _, job = heapq.heappop(polls)
            if restarts and sent >= restarts[0]:  # another process begins with what the store holds
                host, states = HostHealth(), [UNSEEN_MONITOR] * self.jobs
                begin(restarts.pop(0))
                continue
            if sent >= until:
                return
            observed = self.answer(job, sent, rng)
            now = sent + 0.05
            states[job] = loss = update(states[job], observed, sent, now)
            host.heard(str(job), observed, now)
            verdict, due = judge(loss, sent, now, PATIENCE, partial(host.well_at, now=now))
            if verdict is not None:
                self.verdicts[job] = (verdict, now)
                host.leave(str(job))
                continue
            wait = next_wait(
                age=now - born[job],
                progress=UNSEEN,
                now=now,
                failures=loss.failures,
                retry_after=observed.retry_after,
                bounds=bounds,
                rng=rng,
            )
            if observed.retry_after is None:
                wait = max(bounds.shortest, min(wait, due))
            heapq.heappush(polls, (now + wait, next(order), job))

    def answer(self, job: int, at: float, rng: random.Random) -> Observation:
        for fault in self.faults:
            if fault.holds(at):
                return rng.choice(fault.answers)
        if at >= self.gone.get(job, math.inf):
            self.first_plain.setdefault(job, at)
            return GONE if job % 2 else DENIED
        return GOOD


LIES: list[Observation] = [GONE, DENIED, GONE_PAGE, DENIED_PAGE, THROTTLED, Throttled(2.0), BROKEN]
DOUBTFUL: list[Observation] = [GONE_PAGE, DENIED_PAGE, THROTTLED, BROKEN]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to 40 jobs; faults of less than the patience in all, apart by more than the longest wait; restarts."""
    jobs = draw(st.integers(1, 40))
    lies = LIES if jobs >= 3 else DOUBTFUL
    faults, at, left = [], draw(st.floats(0, 300)), 295.0
    for _ in range(draw(st.integers(0, 4))):
        seconds = draw(st.floats(min(20.0, left), left))
        left -= seconds
        faults.append(Fault(at, seconds, draw(st.lists(st.sampled_from(lies), min_size=1, max_size=4, unique=True))))
        at += seconds + draw(st.floats(45, 200))
    return World(
        jobs=jobs,
        faults=faults,
        gone={},
        restarts=draw(st.lists(st.floats(1, 900), max_size=4)),
        seed=draw(st.integers(0, 1 << 32)),
        age=draw(st.sampled_from([1.0, 100.0, 5000.0])),
    )


@given(worlds())
@settings(max_examples=examples(150))
def test_no_job_is_lost_for_a_fault_of_its_host(world: World) -> None:
    """Whatever mixture the host answers, of however many jobs, and whoever polls them."""
    world.run(until=1500.0)
    assert world.verdicts == {}


@given(worlds(), st.floats(500, 1200), st.integers(0, 6))
@settings(max_examples=examples(150))
def test_a_job_that_is_gone_ends_soon_on_a_host_that_is_well(world: World, gone_at: float, first: int) -> None:
    """Within 75 s of its first plain answer, with a restart before that or none; and nobody else with it."""
    faults_end = max((fault.begins + fault.seconds for fault in world.faults), default=0.0)
    gone_at += faults_end + 60
    world.restarts = [at for at in world.restarts if at < gone_at]
    job = first % world.jobs
    world.gone = {job: gone_at}
    world.run(until=gone_at + 400)
    verdict, at = world.verdicts.pop(job)
    assert verdict == ("monitorExpired" if job % 2 else "monitorUnauthorized")
    assert at - world.first_plain[job] <= 75.0
    assert world.verdicts == {}


@pytest.mark.parametrize("lie", LIES[:4])
def test_a_host_that_lies_for_ten_minutes_loses_its_jobs(lie: Observation) -> None:
    """Not before the patience is over, and not long after it."""
    world = World(jobs=50, faults=[Fault(100.0, 600.0, [lie])], gone={}, restarts=[], seed=1, age=1000.0)
    world.run(until=2000.0)
    assert len(world.verdicts) == 50
    assert all(400.0 <= at <= 435.0 for _, at in world.verdicts.values())
