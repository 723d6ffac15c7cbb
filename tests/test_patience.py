"""When the gateway has lost sight of a job."""

from __future__ import annotations

import pytest

from gateway.dialects import Lost, NoAnswer, Observation, Throttled
from gateway.jobs import Answer
from gateway.patience import FRESH, left, recall, waited


@pytest.mark.parametrize("code", ["monitorExpired", "monitorUnauthorized"])
def test_two_lost_answers_five_seconds_apart(code: str) -> None:
    """One does not do, nor two within five seconds; a poll sent five seconds later does."""
    lost = Lost(code)  # type: ignore[arg-type]
    memory, verdict = recall(FRESH, lost, 10.0, 10.1)
    assert verdict is None
    memory, verdict = recall(memory, lost, 14.0, 14.1)
    assert verdict is None
    memory, verdict = recall(memory, lost, 15.2, 15.3)
    assert verdict == code


@pytest.mark.parametrize(
    "between", [Answer(status="inProgress"), NoAnswer("reset"), Throttled(), Lost("monitorUnauthorized")]
)
def test_they_must_be_in_a_row(between: Observation) -> None:
    """Any other answer between them begins the count anew."""
    memory, _ = recall(FRESH, Lost("monitorExpired"), 0, 0)
    memory, _ = recall(memory, between, 3, 3)
    _, verdict = recall(memory, Lost("monitorExpired"), 9, 9)
    assert verdict is None


def test_patience_runs_while_nothing_usable_comes() -> None:
    """It is counted from the first poll that told nothing; an answer ends the count."""
    assert left(FRESH, 5, 60) is None
    memory, _ = recall(FRESH, NoAnswer("x"), 100, 110)
    memory, _ = recall(memory, Throttled(), 120, 121)
    assert memory.failures == 2
    assert left(memory, 130, 60) == 30
    memory, _ = recall(memory, Answer(status="inProgress"), 131, 131)
    assert memory is FRESH


def test_waits_that_upstream_asked_for_are_not_counted() -> None:
    """A Retry-After of an hour does not use up half an hour of patience."""
    memory, _ = recall(FRESH, Throttled(3600), 0, 0)
    memory = waited(memory, 3600)
    assert left(memory, 3600, 1800) == 1800
    memory, _ = recall(memory, NoAnswer("x"), 3600, 3610)
    assert left(memory, 3610, 1800) == 1790
