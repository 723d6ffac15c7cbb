"""One copy as its monitor sees it: what stands fixed from the start, and the moment of one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

# What the overview of long-running actions prints for its copied folder.
DOCUMENTED_NAME = "Copy of LargeFolder1"
DOCUMENTED_ID = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
DOCUMENTED_SIZE = 12019


@dataclass(frozen=True, slots=True)
class Origins:
    """Where things live as the caller reaches them: scheme, host and port, no path."""

    graph: str
    monitor: str
    foreign: str  # the same server under another name: nobody has any business there
    refusing: str  # nobody listens
    silent: str  # a connection to it is never completed


@dataclass(frozen=True, slots=True)
class Copy:
    operation: str
    token: str
    number: int  # 1 for the first copy of this scenario in this drive
    version: str
    origins: Origins
    source_id: str
    drive_id: str
    resource_id: str
    name: str
    seconds: float
    steps: int
    every: int  # a troubled monitor is troubled on the first of every so many polls

    @property
    def monitor_path(self) -> str:
        return f"/_api/v2.0/monitor/{self.operation}?tempauth={self.token}"

    @property
    def monitor_url(self) -> str:
        return self.origins.monitor + self.monitor_path

    @property
    def item_url(self) -> str:
        return f"{self.origins.graph}/{self.version}/drives/{self.drive_id}/items/{self.resource_id}"


@dataclass(frozen=True, slots=True)
class Moment:
    copy: Copy
    elapsed: float
    now: datetime
    poll: int = 1  # 1 for the first question
    waited: float = float("inf")  # seconds since the question before
    bound: float = 0.0  # the Retry-After that question was answered with
    told: bool = False  # the end was told before

    @property
    def done(self) -> bool:
        return self.elapsed >= self.copy.seconds

    @property
    def part(self) -> float:
        """How much is done, 0 to 1, in the copy's steps."""
        if self.done:
            return 1.0
        # The small addition keeps 5/18 of 18 steps at step 5, whatever binary fractions make of it.
        return int(self.elapsed * self.copy.steps / self.copy.seconds + 1e-9) / self.copy.steps

    @property
    def percent(self) -> float:
        return round(100 * self.part, 1)

    @property
    def troubled(self) -> bool:
        return (self.poll - 1) % self.copy.every == 0
