"""Callbacks and a process that may be killed at any step: nothing is lost, and what is doubled can be told as such."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.callbacks import engine as callbacks
from gateway.core.callback import KINDS, Callback, Delivered, Failed, Gone, Outcome
from gateway.core.errors import StoreUnavailable
from gateway.core.job import Answer, Job, Kind, Target, accepted, advance
from gateway.store import ignore_change, sqlite
from tests.support.callback_lives import (
    BEGUN,
    Killed,
    Life,
    Outcomes,
    Recorder,
    Removed,
    Retried,
    World,
    check,
    life,
    lived,
    wanting,
)
from tests.support.dying import ThreadInTheLoop, left_behind


@pytest.fixture(autouse=True)
def _in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "SQLiteThread", ThreadInTheLoop)
    monkeypatch.setattr(ThreadInTheLoop, "chance", random.Random(1))


def failing_now_and_then(fails: Sequence[Outcome]) -> Callable[[], Outcomes]:
    """These outcomes first, for each callback; then all is well."""

    def fresh() -> Outcomes:
        left: dict[str, list[Outcome]] = defaultdict(lambda: list(fails))

        def outcomes(callback_id: str) -> Outcome:
            return left[callback_id].pop(0) if left[callback_id] else Delivered()

        return outcomes

    return fresh


LENGTH = 5
WANTS: dict[str, tuple[Kind, ...]] = {"all": KINDS, "end": ("completed", "failed"), "way": ("progress",)}
SEQS = {"all": [1, 2, 3, 4, 5], "end": [5], "way": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    "fails",
    [
        [],
        [Failed("answered 500")] * 2,
        [Delivered(), Failed("answered 429", 40.0), Delivered(), Failed("answered 500")],
    ],
    ids=["well", "failing", "now and then"],
)
def test_killed_at_every_step(fails: list[Outcome], tmp_path: Path) -> None:
    """A life is gone through step by step; at each that finds the files, the receivers or the time changed, what the
    kill leaves is taken up by another life, and that comes to the same end.
    """
    fresh = failing_now_and_then(fails)
    world = World(fresh())
    folder = tmp_path / "first"
    folder.mkdir()
    points: dict[tuple[int, int, int], tuple[Path, list[Any]]] = {}
    steps = 0

    def before_step() -> None:
        nonlocal steps
        steps += 1
        loop = asyncio.get_running_loop()
        point = (ThreadInTheLoop.commits, len(world.seen), int(loop.time() / 20))
        if begun and point not in points:
            points[point] = (left_behind(folder, tmp_path / f"left-{len(points)}"), list(world.seen))

    begun = False

    async def first_life() -> None:
        nonlocal begun
        async with life(folder, Recorder(world)) as here:
            job, events = accepted("j", monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)
            begun = True
            for callback_id, kinds in WANTS.items():
                callback = wanting(callback_id, "j", kinds)
                await here.store.add_callback(callback)
                here.engine.take(callback)
            await here.grow("j", LENGTH)
            await here.settled()
            begun = False

    lived(before_step, first_life)
    assert steps > 100
    assert len(points) > 15
    for (_, _, twenty_seconds), (left, seen) in points.items():
        after = World(fresh(), [*seen, Killed()])
        for one in seen:
            after.outcomes(one.callback)
        found = taken_up(left, after, twenty_seconds * 20)
        assert [callback.id for callback in found] == sorted(WANTS)[: len(found)]
        for callback in found:
            check(after, callback, SEQS[callback.id])


def taken_up(folder: Path, world: World, later: float) -> list[Callback]:
    """The callbacks at the end of a life that begins with what another left."""
    found: list[Callback] = []

    async def to_the_end() -> None:
        async with life(folder, Recorder(world), later) as here:
            await here.grow("j", LENGTH)
            await here.settled()
            found.extend(await here.store.callbacks("j"))

    lived(lambda: None, to_the_end)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_nothing_waits_for_the_next_look(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However what is new falls together with the end of a delivery, it is told at once."""
    monkeypatch.setattr(callbacks, "LOOK_EVERY", 1e6)
    monkeypatch.setattr(ThreadInTheLoop, "chance", random.Random(seed))
    monkeypatch.setattr(ThreadInTheLoop, "latest", 12)
    came = [anyio.Event()]

    def outcomes(_callback_id: str) -> Outcome:
        came[0].set()
        return Delivered()

    world = World(outcomes)

    async def main() -> None:
        async with life(tmp_path, Recorder(world)) as here:
            job, events = accepted("j", monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)
            callback = wanting("all", "j", KINDS)
            await here.store.add_callback(callback)
            here.engine.take(callback)
            for number in range(90):
                with anyio.fail_after(1):
                    await came[0].wait()
                came[0] = anyio.Event()
                await anyio.sleep(0.01)  # the answer is on its way for as long
                for _ in range(number // 2):
                    await anyio.lowlevel.checkpoint()
                job, events = advance(job, Answer(status="inProgress", percentage=job.seq), BEGUN)
                assert await here.store.append(job, events)
            with anyio.fail_after(1):
                await came[0].wait()

    lived(lambda: None, main)
    assert [attempt.seq for attempt in world.attempts("all")] == list(range(1, 92))


def test_one_that_changed_hands_is_left_alone(tmp_path: Path) -> None:
    """Another process has claimed it: whoever had it before tells no more than what was on its way."""
    world = World(lambda _callback_id: Delivered())

    async def main() -> None:
        async with life(tmp_path, Recorder(world)) as here:
            job, events = accepted("j", monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)
            callback = wanting("all", "j", KINDS)
            await here.store.add_callback(callback)
            here.engine.take(callback)
            while not world.seen:  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.001)
            (claimed,) = await here.store.claim_callbacks()
            await here.grow("j", LENGTH)
            await here.settled()
            assert await here.store.callbacks("j") == [claimed]

    lived(lambda: None, main)
    assert [attempt.seq for attempt in world.attempts("all")] == [1]


def test_a_wake_up_that_never_came(tmp_path: Path) -> None:
    """It is only a hint: what is new is found by the next look."""
    world = World(lambda _callback_id: Delivered())

    async def main() -> None:
        async with life(tmp_path, Recorder(world)) as here:
            job, events = accepted("j", monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)
            callback = wanting("all", "j", KINDS)
            await here.store.add_callback(callback)
            here.engine.take(callback)
            await anyio.sleep(1)
            here.store.on_change = ignore_change
            await here.grow("j", LENGTH)
            with anyio.fail_after(callbacks.LOOK_EVERY + 2):
                await here.settled()

    lived(lambda: None, main)
    assert [attempt.seq for attempt in world.attempts("all")] == SEQS["all"]


def test_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delivered meanwhile is held and stored when it is back: nobody is told twice."""
    world = World(lambda _callback_id: Delivered())

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async def main() -> None:
        async with life(tmp_path, Recorder(world)) as here:
            job, events = accepted("j", monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)
            callback = wanting("all", "j", KINDS)
            await here.store.add_callback(callback)
            here.engine.take(callback)
            await anyio.sleep(1)
            for missing in (["read"], ["save_callback"], ["read", "save_callback"]):
                with monkeypatch.context() as broken:
                    for name in missing:
                        broken.setattr(here.store, name, away)
                    job, events = advance(job, Answer(status="inProgress", percentage=job.seq), BEGUN)
                    assert await here.store.append(job, events)
                    await anyio.sleep(20)
                    (held,) = await here.store.callbacks("j")
                    assert held.progress.cursor == job.seq - 1
                await anyio.sleep(10)
                (kept,) = await here.store.callbacks("j")
                assert kept.progress.cursor == job.seq
            await here.grow("j", LENGTH)
            await here.settled()

    lived(lambda: None, main)
    assert [attempt.seq for attempt in world.attempts("all")] == SEQS["all"]


class Script:
    """What happens to some jobs and their callbacks, whichever process is there: made from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.wanted: dict[str, tuple[str, tuple[Kind, ...]]] = {}
        self.lengths = {f"j{number}": rng.randint(2, 7) for number in range(rng.randint(1, 3))}
        self.removed: set[str] = set()
        self.deeds: list[tuple[str, str]] = []
        names = count()
        for job_id, length in self.lengths.items():
            deeds = [("grow", job_id)] * length
            for _ in range(rng.randint(1, 4)):
                callback_id = f"c{next(names)}"
                self.wanted[callback_id] = (job_id, tuple(rng.sample(KINDS, rng.randint(1, 3))))
                later = [("retry", callback_id)] * rng.randint(0, 2) + [("remove", callback_id)] * (rng.random() < 0.2)
                place = rng.randint(0, len(deeds))
                deeds[place:place] = [("register", callback_id)]
                for deed in later:
                    deeds.insert(rng.randint(place + 1, len(deeds)), deed)
                    place = deeds.index(deed)
            self.deeds += [("create", job_id), *deeds]
        self.done = 0

    async def go_on(self, here: Life, world: World) -> None:
        """From where the last process was: a deed whose end nobody saw is done again."""
        while self.done < len(self.deeds):
            await anyio.sleep(self.rng.choice([0, 0.001, 0.01, 0.015, 0.1, 6, 400]))
            deed, name = self.deeds[self.done]
            await getattr(self, deed)(here, world, name)
            self.done += 1

    async def create(self, here: Life, _world: World, job_id: str) -> None:
        if await here.store.get(job_id) is None:
            job, events = accepted(job_id, monitor=None, target=Target(), now=BEGUN)
            await here.store.create(job, events, None)

    async def grow(self, here: Life, _world: World, job_id: str) -> None:
        job: Job | None = await here.store.get(job_id)
        assert job is not None
        left = self.deeds[self.done :].count(("grow", job_id))
        status = "completed" if left == 1 else "inProgress"
        job, events = advance(job, Answer(status=status, percentage=job.seq), BEGUN)
        if events:
            await here.store.append(job, events)

    async def register(self, here: Life, _world: World, callback_id: str) -> None:
        job_id, kinds = self.wanted[callback_id]
        if all(known.id != callback_id for known in await here.store.callbacks(job_id)):
            callback = wanting(callback_id, job_id, kinds)
            assert await here.store.add_callback(callback) == "added"
            here.engine.take(callback)

    async def retry(self, here: Life, world: World, callback_id: str) -> None:
        callback = await here.store.revive_callback(self.wanted[callback_id][0], callback_id)
        if callback is not None:
            here.engine.take(callback)
        world.seen.append(Retried(callback_id))

    async def remove(self, here: Life, world: World, callback_id: str) -> None:
        await here.store.remove_callback(self.wanted[callback_id][0], callback_id)
        here.engine.drop(callback_id)
        world.seen.append(Removed(callback_id))
        self.removed.add(callback_id)


def by_chance(rng: random.Random) -> Outcomes:
    failed: list[Outcome] = [Failed("answered 500"), Failed("answered 500"), Failed("answered 503", 7.0), Gone()]
    choices = [*([Delivered()] * 6), *failed]
    return lambda _callback_id: rng.choice(choices)


class Lives:
    """A script that several processes go through one after another, each but the last killed after so many steps."""

    def __init__(self, script: Script, world: World, folder: Path) -> None:
        self.script = script
        self.world = world
        self.folder = folder
        self.later = 0.0
        self.kept: dict[str, list[Callback]] = {}
        self.logs: dict[str, list[tuple[int, str]]] = {}

    def killed_after(self, steps: int, into: Path) -> None:
        recorder = Recorder(self.world)
        left = count(steps, -1)

        def before_step() -> None:
            if running and not recorder.dead and next(left) <= 0:
                recorder.dead = True
                left_behind(self.folder, into)
                self.world.seen.append(Killed())
                running[0].cancel()

        async def begin() -> None:
            running.append(asyncio.current_task())
            async with life(self.folder, recorder, self.later) as here:
                await self.script.go_on(here, self.world)
                await anyio.sleep_forever()

        running: list[Any] = []
        with pytest.raises(asyncio.CancelledError):
            lived(before_step, begin)
        self.folder = into

    def to_the_end(self) -> None:
        lived(lambda: None, self._end)

    async def _end(self) -> None:
        async with life(self.folder, Recorder(self.world), self.later) as here:
            await self.script.go_on(here, self.world)
            self.world.outcomes = lambda _callback_id: Delivered()
            for job_id in self.script.lengths:
                for callback in await here.store.callbacks(job_id):
                    if callback.state in ("gone", "exhausted"):
                        await self.script.retry(here, self.world, callback.id)
            await here.settled()
            for job_id in self.script.lengths:
                self.kept[job_id] = await here.store.callbacks(job_id)
                (piece,) = await here.store.read([(job_id, 0)], 100)
                assert piece is not None
                self.logs[job_id] = [(event.seq, event.kind) for event in piece.events]


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(20, 60))]
)
def test_killed_at_random(seed: int, tmp_path: Path) -> None:
    """Jobs, callbacks, failures, retries and removals in any order, through several kills."""
    rng = random.Random(seed)
    script, world = Script(rng), World(by_chance(rng))
    (tmp_path / "0").mkdir()
    lives = Lives(script, world, tmp_path / "0")
    for number in range(rng.randint(1, 5)):
        lives.killed_after(rng.randint(20, 600), tmp_path / str(number + 1))
        lives.later += rng.choice([0.0, 1.0, 1000.0])
    lives.to_the_end()
    assert {one.id for kept in lives.kept.values() for one in kept} == set(script.wanted) - script.removed
    for job_id, kept in lives.kept.items():
        for callback in kept:
            check(world, callback, [seq for seq, kind in lives.logs[job_id] if kind in callback.events])
    for place, one in enumerate(world.seen):
        if isinstance(one, Removed):
            after = World(world.outcomes, world.seen[place:])
            assert after.attempts(one.callback) == []
