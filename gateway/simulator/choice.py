"""Which scenario a request plays, and how long: by its query, the item's name, or the server's default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from gateway.simulator.answers import GraphError
from gateway.simulator.catalogue import SCENARIOS

if TYPE_CHECKING:
    from gateway.simulator.addresses import Address
    from gateway.simulator.scenario import Scenario

LONGEST = 31 * 86400.0  # seconds
MOST_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    scenario: Scenario
    seconds: float
    steps: int
    every: int
    behaviour: str  # @microsoft.graph.conflictBehavior
    named: bool  # the caller asked for this scenario


def checked(scenario: str, seconds: float, steps: int) -> tuple[str, float, int]:
    """The three as they are, or `ValueError` saying what is wrong with which."""
    if scenario not in SCENARIOS:
        raise ValueError(f"There is no scenario {scenario!r}; GET / lists them all.")
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
        raise ValueError(f"seconds is {seconds!r}; it must be a number from 0 to {LONGEST:.0f}.")
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps!r}; it must be a whole number from 1 to {MOST_STEPS}.")
    return scenario, seconds, steps


def choose(query: str, address: Address, scenario: str, seconds: float, steps: int) -> Choice:
    """The caller's choice, or the `GraphError` that says what is wrong with it."""
    asked = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    leaf = address.leaf if address.leaf in SCENARIOS else None
    named = asked.get("simulate", leaf)
    try:
        name, seconds, steps = checked(
            named or scenario, float(asked.get("seconds", seconds)), int(asked.get("steps", steps))
        )
        every = int(asked.get("every", SCENARIOS[name].every))
        if every < 1:
            raise ValueError("every must be a whole number from 1 on.")  # noqa: TRY301
    except ValueError as error:
        raise GraphError(400, "invalidRequest", str(error)) from None
    behaviour = asked.get("@microsoft.graph.conflictBehavior", "fail")
    return Choice(SCENARIOS[name], seconds, steps, every, behaviour, bool(named))
