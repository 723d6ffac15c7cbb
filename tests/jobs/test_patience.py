"""When the gateway has lost track of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.job import Answer
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled
from gateway.jobs.schedule import INITIAL, patience_left, update, with_requested_wait


@pytest.mark.parametrize("code", ["monitorExpired", "monitorUnauthorized"])
def test_two_lost_answers_five_seconds_apart(code: str) -> None:
    """One does not do, nor two within five seconds; a poll sent five seconds later does."""
    lost = Lost(code)  # type: ignore[arg-type]
    memory, verdict = update(INITIAL, lost, 10.0, 10.1)
    assert verdict is None
    memory, verdict = update(memory, lost, 14.0, 14.1)
    assert verdict is None
    memory, verdict = update(memory, lost, 15.2, 15.3)
    assert verdict == code


@pytest.mark.parametrize(
    "between", [Answer(status="inProgress"), NoAnswer("reset"), Throttled(), Lost("monitorUnauthorized")]
)
def test_they_must_be_in_a_row(between: Observation) -> None:
    """Any other answer between them begins the count anew."""
    memory, _ = update(INITIAL, Lost("monitorExpired"), 0, 0)
    memory, _ = update(memory, between, 3, 3)
    _, verdict = update(memory, Lost("monitorExpired"), 9, 9)
    assert verdict is None


def test_patience_runs_while_nothing_usable_comes() -> None:
    """It is counted from the first poll that told nothing; an answer ends the count."""
    assert patience_left(INITIAL, 5, 60) is None
    memory, _ = update(INITIAL, NoAnswer("x"), 100, 110)
    memory, _ = update(memory, Throttled(), 120, 121)
    assert memory.failures == 2
    assert patience_left(memory, 130, 60) == 30
    memory, _ = update(memory, Answer(status="inProgress"), 131, 131)
    assert memory is INITIAL


def test_waits_that_upstream_asked_for_are_not_counted() -> None:
    """A Retry-After of an hour does not use up half an hour of patience."""
    memory, _ = update(INITIAL, Throttled(3600), 0, 0)
    memory = with_requested_wait(memory, 3600)
    assert patience_left(memory, 3600, 1800) == 1800
    memory, _ = update(memory, NoAnswer("x"), 3600, 3610)
    assert patience_left(memory, 3610, 1800) == 1790


def test_a_monitor_that_mixes_lost_and_broken_answers_runs_out_of_patience() -> None:
    """401 and 500 in turn, as seen for days in 2015, is no usable answer either: the silence goes on."""
    memory, now = INITIAL, 0.0
    mixed: list[Observation] = [Lost("monitorUnauthorized"), NoAnswer("x"), Lost("monitorExpired"), Throttled()]
    for observed in mixed * 3:
        memory, verdict = update(memory, observed, now, now)
        assert verdict is None
        assert patience_left(memory, now, 60) == 60 - now
        now += 4
    assert memory.failures == 6
    memory, verdict = update(memory, Lost("monitorExpired"), now, now)
    memory, verdict = update(memory, Lost("monitorExpired"), now + 5, now + 5)
    assert verdict == "monitorExpired"
    memory, _ = update(memory, Answer(status="inProgress"), now + 6, now + 6)
    assert memory is INITIAL


def test_a_lost_answer_begins_its_own_count() -> None:
    """The five seconds run from the first of the two, not from the silence before it."""
    memory, _ = update(INITIAL, NoAnswer("x"), 0, 0)
    memory, verdict = update(memory, Lost("monitorExpired"), 100, 100)
    assert verdict is None
    memory, verdict = update(memory, Lost("monitorExpired"), 104.9, 105)
    assert verdict is None
    memory, verdict = update(memory, Lost("monitorExpired"), 105, 105)
    assert verdict == "monitorExpired"


def test_the_five_seconds_run_from_the_first_answer_to_the_second_question() -> None:
    """A slow second answer does not count as five seconds later."""
    memory, _ = update(INITIAL, Lost("monitorExpired"), 0, 9)
    _, verdict = update(memory, Lost("monitorExpired"), 10, 19)
    assert verdict is None
    _, verdict = update(memory, Lost("monitorExpired"), 14, 14)
    assert verdict == "monitorExpired"


KINDS = [Answer(status=None), NoAnswer("x"), Throttled(), Lost("monitorExpired"), Lost("monitorUnauthorized")]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0.5, 20)), max_size=30))
def test_any_order_of_answers(steps: list[tuple[Observation, float]]) -> None:
    """A verdict takes two of its kind in a row, five seconds apart; patience runs from the last usable answer on."""
    memory, now = INITIAL, 0.0
    row: list[tuple[Observation, float]] = []
    since: float | None = None
    for observed, later in steps:
        now += later
        memory, verdict = update(memory, observed, now, now)
        row = [*row, (observed, now)] if row and row[-1][0] == observed else [(observed, now)]
        since = None if isinstance(observed, Answer) else now if since is None else since
        due = isinstance(observed, Lost) and now - row[0][1] >= 5
        assert verdict == (observed.code if due and isinstance(observed, Lost) else None)
        assert patience_left(memory, now, 60) == (None if since is None else 60 - (now - since))
