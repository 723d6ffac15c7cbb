"""When the gateway has lost a monitor, and what watchers are told until then: decisions over monotonic seconds.

A terminal event cannot be taken back, and hosts lie for a while: a front end that answers every monitor with 404 in
HTML, or with 401, for half an hour has been seen. So the loss of a monitor takes plain answers in a row for a while,
and doubtful ones for much longer. While most jobs of a host hear the same, it is the host's trouble, not theirs.

Everything here begins anew in another process, which makes a restart or a takeover patient, never impatient. Only the
trouble that watchers were told is kept in the job's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from gateway.core.job import Answer, Trouble, TroubleCode, iso
from gateway.graph.dialects import Lost, MonitorLoss, NoAnswer, Observation, Throttled

LostTrack = MonitorLoss | Literal["monitorUnreachable"]

GONE_SECONDS = 15.0
"""Least seconds of plain answers in a row before a monitor counts as lost …"""
PLAIN_ANSWERS = 3
"""Polls into which these seconds are divided, unless upstream asks for longer waits."""
UNSURE_SECONDS = 60.0
"""… and after 401 and 403, or when the monitor never gave a good answer: some are 404 until they are there."""
LONG_WAIT = 10.0
"""Seconds of a requested wait from which even the first answer is told as trouble."""

_CODES: dict[type[Observation], TroubleCode] = {Throttled: "throttled", NoAnswer: "unreachable", Lost: "doubted"}


class Patience(msgspec.Struct, frozen=True):
    """Seconds after which track is lost: of `silent` monitors, and of those with doubtful answers."""

    silent: float
    doubtful: float


class LossState(msgspec.Struct, frozen=True):
    """How close the gateway is to losing track of a job.

    `seen` says that the monitor has given a good answer. `failures` counts the polls in a row without one, `repeated`
    those of them that were the same trouble, `code`, as the last; the first of these came at `code_since`.
    `silent_since` is when the first poll of the current silence was sent, None while the monitor answers. `asked` is
    how many seconds of the silence upstream itself asked for. `lost` is the reason in the last answer, if that was a
    Lost; `lost_since` when the first Lost in a row came, and `plain_since` when the first of those came that were all
    plain and had the same reason. Times are monotonic seconds.
    """

    seen: bool = False
    failures: int = 0
    code: TroubleCode | None = None
    repeated: int = 0
    code_since: float = 0.0
    silent_since: float | None = None
    asked: float = 0.0
    lost: MonitorLoss | None = None
    lost_since: float = 0.0
    plain_since: float | None = None


UNSEEN_MONITOR = LossState()
WELL = LossState(seen=True)


def update(loss: LossState, observed: Observation, sent: float, now: float) -> LossState:
    """The loss state after an observation at `now` whose poll was sent at `sent`."""
    if isinstance(observed, Answer):
        return WELL
    code = _CODES[type(observed)]
    again = loss.code == code
    lost, lost_since, plain_since = None, 0.0, None
    if isinstance(observed, Lost):
        lost, lost_since = observed.code, now if loss.lost is None else loss.lost_since
        if observed.plain:
            plain_since = now if loss.plain_since is None or loss.lost != lost else loss.plain_since
    return LossState(
        seen=loss.seen,
        failures=loss.failures + 1,
        code=code,
        repeated=loss.repeated + 1 if again else 1,
        code_since=loss.code_since if again else now,
        silent_since=sent if loss.silent_since is None else loss.silent_since,
        asked=loss.asked,
        lost=lost,
        lost_since=lost_since,
        plain_since=plain_since,
    )


def judge(
    loss: LossState, sent: float, now: float, patience: Patience, host_well_at: Callable[[float], float]
) -> tuple[LostTrack | None, float]:
    """The verdict after an observation at `now` whose poll was sent at `sent`, None if there is none yet, and the
    most seconds until the next poll for its sake: infinite while the monitor answers.

    `host_well_at`, given the time since when the job has heard that its monitor is lost, is the time from when its host
    may count as well; not later than `now` if it does.
    """
    if loss.lost is None:
        left = patience_left(loss, now, patience.silent)
        if left is None:
            return None, math.inf
        return ("monitorUnreachable", 0.0) if left <= 0 else (None, left)
    due = loss.lost_since + patience.doubtful
    if loss.plain_since is not None:
        unsure = loss.lost == "monitorUnauthorized" or not loss.seen
        needed = UNSURE_SECONDS if unsure else GONE_SECONDS
        plainly = loss.plain_since + needed
        if sent < plainly:
            plainly = min(plainly, now + needed / PLAIN_ANSWERS)
        else:
            plainly = host_well_at(loss.plain_since)
            if plainly <= now:
                return loss.lost, 0.0
        due = min(loss.lost_since + max(patience.doubtful, needed), plainly)
    return (loss.lost, 0.0) if sent >= due else (None, due - now)


def patience_left(loss: LossState, now: float, patience: float) -> float | None:
    """Seconds of `patience` left, not counting waits that upstream asked for; None while the monitor answers."""
    if loss.silent_since is None:
        return None
    return patience - (now - loss.silent_since - loss.asked)


def with_requested_wait(loss: LossState, seconds: float) -> LossState:
    """The loss state after a wait of `seconds` that upstream asked for; the same while the monitor answers."""
    return loss if loss.silent_since is None else msgspec.structs.replace(loss, asked=loss.asked + seconds)


def trouble_told(
    told: Trouble | None, loss: LossState, requested: float | None, now: float, clock: float
) -> Trouble | None:
    """The trouble that watchers are told after an observation; `told` is what they were told before.

    `requested` is the wait in seconds that upstream asked for, None without one. `now` is monotonic, `clock` in seconds
    since 1970. Trouble comes with the second answer in a row that is not good, or with the first that asks for a long
    wait; its code changes likewise; a repetition changes nothing.
    """
    if loss.code is None:
        return None
    if told is not None and told.code == loss.code:
        return told
    enough = loss.failures if told is None else loss.repeated
    if enough < 2 and (requested is None or requested < LONG_WAIT):
        return told
    return Trouble(
        code=loss.code,
        since=iso(clock - (now - loss.code_since)),
        retry_at=None if requested is None else iso(clock + requested),
    )
