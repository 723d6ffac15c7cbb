"""What a row of the benchmark is: cases that are run, lines that are told of them, and how runs become figures."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from tests.bench.chart import Chart

Figures = Mapping[str, float]
Runs = Mapping[str, Sequence[Figures]]
"""All figures of all runs, by case."""
Need = Callable[[], str | None]
"""Why something that a case needs is missing, or None."""


class Case(msgspec.Struct, frozen=True):
    """Something that is run, given an empty folder and the number of the run, and returns its figures by name."""

    name: str
    run: Callable[[Path, int], Awaitable[Figures]]
    needs: Sequence[Need] = ()
    once: bool = False
    """Whether it has the same figures each time."""


class Target(msgspec.Struct, frozen=True):
    """What a line's comparison is to reach, or its figure when it is compared with nothing."""

    limit: float
    way: Literal["at least", "at most"] = "at most"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.way == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.way} {self.limit:g}"


class Line(msgspec.Struct, frozen=True):
    """A figure of a case, beside the same or another figure of another case when `peer` names one."""

    title: str
    unit: str
    case: str
    figure: str
    peer: str | None = None
    peer_figure: str | None = None
    compared: Literal["ratio", "difference"] = "ratio"
    target: Target | None = None

    def told(self, seen: Runs) -> Told:
        """The line over all runs: medians, and comparisons run by run, so that what slows both slows neither."""
        mine = [run[self.figure] for run in seen.get(self.case, ())]
        peers = [run[self.peer_figure or self.figure] for run in seen.get(self.peer or "", ())]
        comparisons = [
            own / other if self.compared == "ratio" else own - other
            for own, other in zip(mine, peers, strict=False)
            if other or self.compared == "difference"
        ]
        judged = comparisons if self.peer else mine
        met = self.target.met(median(judged)) if self.target is not None and judged else None
        return Told(self, mine, peers, comparisons, met)


class Told(msgspec.Struct, frozen=True):
    """What became of a line; `met` is None when there is no target, or nothing to hold against it."""

    line: Line
    values: Sequence[float]
    peers: Sequence[float]
    comparisons: Sequence[float]
    met: bool | None


class Row(msgspec.Struct, frozen=True):
    """`about` says in a line what is done, and what of it a reader should know to believe it."""

    name: str
    about: str
    cases: Sequence[Case]
    lines: Sequence[Line]
    chart: Callable[[Runs], Chart] | None = None


class Result(msgspec.Struct, frozen=True):
    """A row that was run; `missing` says what could not be, and why."""

    row: str
    about: str
    lines: Sequence[Told]
    missing: Sequence[str]
    runs: Runs


async def run(row: Row, runs: int, folder: Path, rng: random.Random, say: Callable[[str], None]) -> Result:
    """Every case that can be run, once a round, each round in an order of its own."""
    missing: dict[str, list[str]] = {}
    cases = []
    for case in row.cases:
        if why := next((why for need in case.needs if (why := need())), None):
            missing.setdefault(why, []).append(case.name)
        else:
            cases.append(case)
    seen: dict[str, list[Figures]] = {case.name: [] for case in cases}
    for number in range(runs):
        for case in rng.sample(cases, len(cases)):
            if case.once and number:
                continue
            own = folder / f"{row.name}-{number}-{len(seen[case.name])}-{cases.index(case)}"
            own.mkdir(mode=0o711)  # nginx's worker is not root, and passes
            try:
                figures = await case.run(own, number)
            except Exception as error:
                error.add_note(f"in {row.name}, {case.name}")
                raise
            seen[case.name].append(figures)
            say(f"{row.name} {number + 1}/{runs} {case.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    told = [line.told(seen) for line in row.lines]
    return Result(row.name, row.about, told, [f"{', '.join(names)}: {why}" for why, names in missing.items()], seen)
