"""One gateway among many, against a store whose every answer is scripted; in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import given
from hypothesis import strategies as st

from gateway import membership
from gateway.core.errors import StoreUnavailable
from gateway.membership import Lease, Membership, rebalance
from gateway.store import ClusterView, SharedStore
from tests.support.harness import runtime

LEASE = 10.0


pytestmark = pytest.mark.virtual_time


class ScriptedStore:
    """What the others do is written here; `away` names the calls that fail, `hanging` those that do not return."""

    lease = LEASE
    term = 0.75 * LEASE

    def __init__(self) -> None:
        self.others = ClusterView(members=1, jobs=0, callbacks=0)
        self.alive = True
        self.free: list[str] = []
        self.owned: set[str] = set()
        self.stored: dict[str, int] = {}
        self.on_compare: Callable[[], None] = lambda: None
        self.on_release: Callable[[], None] = lambda: None
        self.away: set[str] = set()
        self.hanging: set[str] = set()
        self.renewals: list[float] = []
        self.burials: list[float] = []
        self.handed_on: list[str] = []
        self.joined = 0
        self.left = 0
        self.clock_set_by = 0.0

    def clock(self) -> float:
        return 1_790_000_000 + self.clock_set_by + anyio.current_time()

    async def _asked(self, what: str) -> None:
        if what in self.hanging:
            await anyio.sleep_forever()
        if what in self.away:
            raise StoreUnavailable(what)

    async def join(self) -> None:
        self.joined += 1
        self.alive = True

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> ClusterView | None:
        assert patience > 0
        await self._asked("renew")
        self.renewals.append(anyio.current_time())
        if not self.alive:
            return None
        others = self.others
        return ClusterView(
            members=others.members,
            jobs=others.jobs + jobs + len(self.free),
            callbacks=others.callbacks + callbacks,
            silent=others.silent,
        )

    async def expire_members(self) -> list[str]:
        await self._asked("expire_members")
        self.burials.append(anyio.current_time())
        return []

    async def claim(self, most: int) -> list[str]:
        await self._asked("claim")
        portion, self.free = self.free[: min(most, 3)], self.free[min(most, 3) :]
        self.owned |= set(portion)
        return portion

    async def claim_callbacks(self, most: int) -> list[str]:
        raise AssertionError(most)

    async def release(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        assert table == "jobs"
        await self._asked("release")
        self.handed_on += ids
        self.owned -= set(ids)
        self.on_release()

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        self.on_compare()
        return set(self.owned) if table == "jobs" else set()

    async def epochs(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> dict[str, int]:
        assert table == "jobs"
        return {row_id: self.stored[row_id] for row_id in ids if row_id in self.stored}

    async def release_all(self) -> None:
        await self._asked("release_all")

    async def leave(self) -> None:
        await self._asked("leave")
        self.left += 1


class Jobs:
    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        """With the epoch of each."""

    def held(self) -> set[str]:
        return set(self.ids)

    def drop(self, row_id: str) -> None:
        self.ids.pop(row_id, None)

    def leave_to(self, row_id: str, epoch: int) -> None:
        if self.ids.get(row_id, epoch) < epoch:
            self.drop(row_id)

    def give_up(self, most: int) -> Sequence[str]:
        given = list(self.ids)[:most]
        for job_id in given:
            self.drop(job_id)
        return given

    def resume(self, rows: Iterable[Any]) -> None:
        self.ids.update(dict.fromkeys(rows, 1))


class Scene:
    def __init__(self, tasks: TaskGroup) -> None:
        self.store = ScriptedStore()
        self.lease = Lease(ScriptedStore.term)
        self.jobs = Jobs()
        shared = runtime(tasks, lease=self.lease)
        self.membership = Membership(cast("SharedStore", self.store), self.jobs, Jobs(), shared)


@asynccontextmanager
async def playing(before: Callable[[ScriptedStore], None] = lambda _store: None) -> AsyncIterator[Scene]:
    async with anyio.create_task_group() as tasks:
        scene = Scene(tasks)
        before(scene.store)
        await scene.membership.begin()
        yield scene
        tasks.cancel_scope.cancel()


async def test_much_is_taken_in_portions() -> None:
    """All that is free, at once after the start, while the lease is renewed."""

    def much(store: ScriptedStore) -> None:
        store.free = [f"j{number}" for number in range(100)]

    async with playing(much) as scene:
        await anyio.sleep(0.5)
        assert len(scene.jobs.ids) == 100


async def test_a_claim_that_hangs_costs_no_lease() -> None:
    """Renewals wait for nothing else."""

    def stuck(store: ScriptedStore) -> None:
        store.free = ["a"]
        store.hanging = {"claim"}

    async with playing(stuck) as scene:
        await anyio.sleep(10 * LEASE)
        assert scene.lease.holds
        assert len(scene.store.renewals) > 50


async def test_a_burial_that_fails_keeps_nothing_else_from_being_done() -> None:
    """What is free is taken all the same."""
    async with playing() as scene:
        scene.store.away = {"expire_members"}
        scene.store.others = ClusterView(members=2, jobs=0, callbacks=0, silent=1)
        await anyio.sleep(LEASE)
        scene.store.free = ["a"]
        await anyio.sleep(LEASE / 2)
        assert scene.jobs.held() == {"a"}


async def test_who_is_silent_is_buried_soon() -> None:
    """Within two ticks of its being told; and without one, now and then, for strays."""
    async with playing() as scene:
        await anyio.sleep(2 * LEASE)
        regular = len(scene.store.burials)
        assert 2 <= regular <= 5
        scene.store.others = ClusterView(members=1, jobs=0, callbacks=0, silent=1)
        await anyio.sleep(LEASE / 4)
        assert len(scene.store.burials) > regular


@pytest.mark.parametrize("seconds", [4.0, 6.6, 7.4, 20.0])
async def test_after_an_outage_the_others_get_the_time_of_a_lease(seconds: float) -> None:
    """Even one that was a little shorter than the lease: whoever renewed last before it must not take the rest for
    dead.
    """
    async with playing() as scene:
        await anyio.sleep(2 * LEASE)
        scene.store.away = {"renew"}
        await anyio.sleep(seconds)
        scene.store.away = set()
        scene.store.others = ClusterView(members=1, jobs=0, callbacks=0, silent=2)
        scene.store.burials.clear()
        back = len(scene.store.renewals)
        await anyio.sleep(2 * LEASE)
        assert scene.store.burials[0] >= scene.store.renewals[back] + LEASE


@pytest.mark.parametrize("seconds", [-3600.0, 8.0, 86400.0])
async def test_after_the_databases_clock_was_set_the_others_get_the_time_of_a_lease(seconds: float) -> None:
    """Their leases only seem to have ended; a clock that drifts by less costs nothing."""
    async with playing() as scene:
        await anyio.sleep(2 * LEASE)
        scene.store.clock_set_by = seconds
        scene.store.others = ClusterView(members=1, jobs=0, callbacks=0, silent=2)
        back = len(scene.store.renewals)
        scene.membership._expire_at = anyio.current_time() + LEASE
        scene.store.burials.clear()
        await anyio.sleep(3 * LEASE)
        assert scene.store.burials[0] >= scene.store.renewals[back] + LEASE
        scene.store.clock_set_by += 1.0
        scene.store.burials.clear()
        await anyio.sleep(LEASE / 4)
        assert scene.store.burials


@pytest.mark.parametrize("away", [set(), {"release_all"}, {"leave"}])
async def test_one_that_leaves_stays_a_member_until_the_end(away: set[str]) -> None:
    """It renews while its copies are in flight, then no more; a store that is away keeps it from neither."""
    async with playing() as scene:
        scene.store.away = away
        scene.membership.retire()
        await scene.membership.release()
        await anyio.sleep(LEASE)
        assert scene.store.renewals[-1] > anyio.current_time() - LEASE / 4
        assert scene.lease.holds
        for _ in range(2):
            await scene.membership.leave()
        assert scene.store.left == ("leave" not in away)


async def test_who_was_given_up_begins_anew_and_is_patient() -> None:
    """It drops all, since others have it by now, and takes nobody for dead for the time of a lease."""
    async with playing() as scene:
        scene.store.free = ["a", "b"]
        await anyio.sleep(LEASE)
        assert len(scene.jobs.ids) == 2
        scene.store.alive = False
        scene.store.others = ClusterView(members=1, jobs=2, callbacks=0, silent=1)
        scene.store.owned.clear()
        scene.store.burials.clear()
        told = anyio.current_time()
        await anyio.sleep(3 * LEASE)
        assert scene.store.joined == 1
        assert not scene.jobs.ids
        assert scene.store.burials[0] >= told + LEASE


async def test_what_could_not_be_handed_on_is_handed_on_later() -> None:
    """Nobody does anything for it meanwhile, so it must not wait for the comparison."""
    async with playing() as scene:
        scene.store.free = [f"j{number}" for number in range(10)]
        await anyio.sleep(LEASE)
        scene.store.away = {"release"}
        scene.store.others = ClusterView(members=2, jobs=0, callbacks=0)
        await anyio.sleep(LEASE / 2)
        assert len(scene.jobs.ids) == 5
        scene.store.others = ClusterView(members=2, jobs=5, callbacks=0)
        scene.store.away = set()
        await anyio.sleep(LEASE / 4)
        assert len(scene.store.handed_on) == 5


async def test_what_is_taken_anew_before_its_release_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else has the token that came for it meanwhile."""
    monkeypatch.setattr(membership, "RELEASED_AT_ONCE", 1)
    async with playing() as scene:
        scene.store.free = [f"j{number}" for number in range(8)]
        await anyio.sleep(LEASE)

        def taken() -> None:
            scene.jobs.resume(scene.store.owned)
            scene.store.others = ClusterView(members=1, jobs=0, callbacks=0)

        scene.store.on_release = taken
        scene.store.others = ClusterView(members=2, jobs=0, callbacks=0)
        await anyio.sleep(LEASE / 4)
        assert len(scene.store.handed_on) == 1
        assert scene.jobs.held() == scene.store.owned


async def test_what_is_owned_but_unknown_here_is_handed_on_after_two_looks() -> None:
    """As after a claim whose answer was lost; and what the store gave to another is dropped."""
    async with playing() as scene:
        scene.store.owned = {"lost"}
        scene.jobs.resume(["gone"])
        await anyio.sleep(3.5 * LEASE)
        assert scene.store.handed_on == ["lost"]
        assert not scene.jobs.ids


@pytest.mark.parametrize("stored", [2, 3])
async def test_what_is_taken_again_during_a_comparison_is_kept(stored: int) -> None:
    """A job that another gateway had, for which a token came here meanwhile, whichever of the two was looked up."""
    async with playing() as scene:
        scene.jobs.resume(["again", "gone"])

        def taken() -> None:
            if "again" in scene.jobs.ids:
                scene.jobs.ids["again"] = 3

        scene.store.on_compare = taken
        scene.store.stored = {"again": stored, "gone": 2}
        await anyio.sleep(1.5 * LEASE)
        assert scene.jobs.ids == {"again": 3}


async def test_one_that_retires_takes_nothing_more() -> None:
    """But keeps its lease, for what is in hand."""
    async with playing() as scene:
        scene.membership.retire()
        scene.store.free = ["a"]
        await anyio.sleep(2 * LEASE)
        assert not scene.jobs.ids
        assert scene.lease.holds
        await scene.membership.leave()
        renewed = len(scene.store.renewals)
        await anyio.sleep(LEASE)
        assert len(scene.store.renewals) == renewed


async def test_a_lease_without_a_term_always_holds() -> None:
    """There is nobody else."""
    lease = Lease()
    await lease.held()
    await anyio.sleep(86400)
    assert lease.holds


async def test_a_lease_counts_from_when_its_renewal_was_sent() -> None:
    """Not from when the answer came."""
    lease = Lease(7.5)
    sent = anyio.current_time()
    await anyio.sleep(3)
    lease.renewed(sent)
    await anyio.sleep(4.4)
    assert lease.holds
    await anyio.sleep(0.2)
    assert not lease.holds


async def test_who_waits_goes_on_with_the_next_renewal() -> None:
    """All of them; one that came too late to be of use lets nobody go on."""
    lease = Lease(5)
    went_on: list[float] = []

    async def wait() -> None:
        await lease.held()
        went_on.append(anyio.current_time())

    begun = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.sleep(10)
        lease.renewed(begun + 2)
        await anyio.sleep(10)
        assert went_on == []
        lease.renewed(anyio.current_time())
    assert went_on == [begun + 20] * 3


@pytest.mark.parametrize(
    ("mine", "everything", "members", "take", "give"),
    [
        (0, 0, 1, 0, 0),
        (0, 300, 1, 300, 0),
        (300, 300, 1, 0, 0),
        (300, 300, 2, 0, 150),
        (0, 300, 3, 100, 0),
        (100, 300, 3, 0, 0),
        (105, 300, 3, 0, 0),
        (106, 300, 3, 0, 6),
        (1, 1, 3, 0, 0),
        (2, 2, 3, 0, 1),
        (0, 1, 3, 1, 0),
    ],
)
def test_a_share(mine: int, everything: int, members: int, take: int, give: int) -> None:
    """All of it for one alone; a little too much is not worth the moving."""
    assert rebalance(mine, everything, members) == (take, give)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(0, 500), st.integers(0, 1000))
def test_it_evens_out(held: list[int], free: int, seed: int) -> None:
    """Whoever starts with whatever, in any order: nothing stays free, and all have about the same."""
    rng = random.Random(seed)
    for _ in range(3):
        order = list(range(len(held)))
        rng.shuffle(order)
        for place in order:
            take, give = rebalance(held[place], sum(held) + free, len(held))
            taken = min(take, free)
            held[place] += taken - give
            free += give - taken
    assert free == 0
    share = sum(held) / len(held)
    assert max(held) <= share * 1.05 + 1
