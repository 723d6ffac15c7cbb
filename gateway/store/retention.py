"""How long ended jobs are kept, also when the wall clock is set: an age is the time that has passed."""

from __future__ import annotations

TOLERANCE = 1.0
"""Seconds by which the wall clock may run off the monotonic one between two looks without having been set."""


class Retention:
    """The time before which a job must have ended to be deleted. `seconds` is how long ended jobs are kept.

    The stored times are the wall clock's. When that is set forward, the jobs that ended before would seem old at once.
    So the limit then stays behind by as much, until all of them have really been kept for long enough.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._offset: float | None = None
        self._behind = 0.0
        self._behind_until = 0.0

    def limit(self, wall: float, now: float) -> float:
        """The limit at `wall`, in seconds since 1970; `now` is the same moment by the monotonic clock."""
        offset = wall - now
        jump = 0.0 if self._offset is None else offset - self._offset
        self._offset = offset
        if now >= self._behind_until:
            self._behind = 0.0
        if abs(jump) > TOLERANCE:
            self._behind = max(0.0, self._behind + jump)
            self._behind_until = now + self._seconds
        return wall - self._seconds - self._behind
