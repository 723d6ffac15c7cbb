"""When the gateway has lost sight of a job: what a poller remembers between answers that tell nothing."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled
from gateway.jobs.schedule import TWICE_APART

LostSight = Literal["monitorExpired", "monitorUnauthorized", "monitorUnreachable"]


class Memory(msgspec.Struct, frozen=True):
    """`silent_since` and `lost_since` are monotonic seconds; `asked` is how many seconds of the silence upstream
    itself asked for; `failures` counts answers in a row that told nothing.
    """

    failures: int = 0
    silent_since: float | None = None
    asked: float = 0.0
    lost: Literal["monitorExpired", "monitorUnauthorized"] | None = None
    lost_since: float = 0.0


FRESH = Memory()


def recall(memory: Memory, observed: Observation, sent: float, now: float) -> tuple[Memory, LostSight | None]:
    """What to remember after an observation whose poll was sent at `sent`, and the verdict if one is due.

    `monitorExpired` and `monitorUnauthorized` take two such answers in a row, at least five seconds apart. One alone
    tells as little as no answer: a monitor that mixes 401 with 500 for days runs out of patience too.
    """
    since = sent if memory.silent_since is None else memory.silent_since
    match observed:
        case Lost(code=code):
            if memory.lost == code:
                return memory, code if sent - memory.lost_since >= TWICE_APART else None
            return (
                Memory(memory.failures, silent_since=since, asked=memory.asked, lost=code, lost_since=now),
                None,
            )
        case Throttled() | NoAnswer():
            return Memory(memory.failures + 1, silent_since=since, asked=memory.asked), None
        case _:
            return FRESH, None


def left(memory: Memory, now: float, patience: float) -> float | None:
    """Seconds of patience left; None while the monitor answers."""
    if memory.silent_since is None:
        return None
    return patience - (now - memory.silent_since - memory.asked)


def waited(memory: Memory, seconds: float) -> Memory:
    """After a wait that upstream asked for."""
    return msgspec.structs.replace(memory, asked=memory.asked + seconds)
