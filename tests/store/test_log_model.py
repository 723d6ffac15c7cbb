"""The log under any order of observations, crashes, restarts and owners that come back from the dead."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core.job import COMPLETED, FAILED, RUNNING, Answer, Event, Job, Target, accepted, advance, lose_track
from gateway.store.sqlite import SQLiteStore
from tests.support.examples import examples
from tests.support.stores import open_sqlite

ANSWERS = st.builds(
    Answer,
    status=st.sampled_from([*RUNNING, *RUNNING, *COMPLETED, *FAILED, "paused"]),
    percentage=st.none() | st.floats(0, 100),
    resource_id=st.none() | st.just("01A"),
)


class Log(RuleBasedStateMachine):
    """One job, its owners by the epoch each believes in, and what the store has acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.acknowledged: list[Event] = []
        self.owners: list[Job] = []
        self.store: SQLiteStore

    @initialize()
    def begin(self) -> None:
        self.open()
        job, events = accepted("j", monitor="https://h/m", target=Target(prefix="me/drive"), now=1.0)
        self.runner.run(self.store.create(job, events, None))
        self.acknowledged += events
        self.owners.append(job)

    def open(self) -> None:
        async def opened() -> SQLiteStore:
            return open_sqlite(self.folder / "s.db", 10_000)

        self.store = self.runner.run(opened())

    @rule(answer=ANSWERS, owner=st.integers(0, 9))
    def some_owner_appends(self, answer: Answer, owner: int) -> None:
        """Any owner, current or long replaced, writes what it saw."""
        place = owner % len(self.owners)
        job, events = advance(self.owners[place], answer, 2.0)
        if events:
            self.write(place, job, events)

    @rule(owner=st.integers(0, 9))
    def some_owner_gives_up(self, owner: int) -> None:
        place = owner % len(self.owners)
        job, events = lose_track(self.owners[place], "deadlineExceeded", 2.0)
        if events:
            self.write(place, job, events)

    def write(self, place: int, job: Job, events: list[Event]) -> None:
        current = place == len(self.owners) - 1
        kept = self.runner.run(self.store.append(job, events))
        ended = self.acknowledged[-1].terminal
        assert kept == (current and not ended)
        if kept:
            self.acknowledged += events
            self.owners[place] = job

    @rule()
    def the_watch_is_stopped(self) -> None:
        ended = self.acknowledged[-1].terminal
        job = self.runner.run(self.store.stop("j", 3.0))
        assert job is not None
        if not ended:
            (piece,) = self.runner.run(self.store.read([("j", self.acknowledged[-1].seq)], 10))
            assert piece is not None
            self.acknowledged += piece.events
            assert piece.events[-1].terminal

    @rule()
    def it_crashes_and_starts_again(self) -> None:
        """What a killed process leaves is its files as they are at that moment."""
        self.lives += 1
        left = Path(tempfile.mkdtemp())
        for name in ("s.db", "s.db-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, left / name)
        self.runner.run(self.store.close())
        shutil.rmtree(self.folder)
        self.folder = left
        self.open()
        for job in self.runner.run(self.store.claim()):
            self.owners.append(job)

    @invariant()
    def the_log_is_what_was_acknowledged(self) -> None:
        """No number twice, none missing, one terminal event at most and last, no percentage that falls."""
        if not self.acknowledged:
            return
        (piece,) = self.runner.run(self.store.read([("j", 0)], 10_000))
        assert piece is not None
        assert list(piece.events) == self.acknowledged
        assert [event.seq for event in piece.events] == list(range(1, piece.head + 1))
        assert not any(event.terminal for event in piece.events[:-1])
        assert piece.ended == piece.events[-1].terminal
        shown = [msgspec.json.decode(event.data)["percentageComplete"] for event in piece.events]
        assert shown == sorted(shown)

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)


TestLog = Log.TestCase
TestLog.settings = settings(max_examples=examples(60), stateful_step_count=25, deadline=None, derandomize=True)
