"""The table that is printed and the JSON that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from tests.bench.row import Result, Told

HEAD = ("what", "figure", "beside", "ratio", "spread", "target", "met")
_MET = {True: "yes", False: "NO", None: ""}


class Report(msgspec.Struct, frozen=True):
    """All that was measured, and on what."""

    machine: Mapping[str, str]
    runs: int
    results: Sequence[Result]


def machine_lines(machine: Mapping[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in machine.items()]


def table(result: Result) -> str:
    """A row as a Markdown table; the spread is that of the ratio where there is one, else that of the figure."""
    rows = [HEAD, tuple("---" for _ in HEAD), *map(_cells, result.lines)]
    width = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(size) for cell, size in zip(row, width, strict=True)) + " |" for row in rows]
    return "\n".join(
        [f"### {result.row}", result.about, "", *lines, *(f"Not measured: {why}" for why in result.missing)]
    )


def _cells(told: Told) -> tuple[str, ...]:
    line = told.line
    if not told.values:
        return (line.title, "not measured", "", "", "", str(line.target or ""), "")
    peer = f"{_number(median(told.peers))} ({line.peer})" if told.peers else f"no {line.peer}" if line.peer else ""
    sign = "+" if line.compared == "difference" else ""
    compared = f"{median(told.comparisons):{sign}.3g}" if told.comparisons else ""
    spread = told.comparisons or told.values
    return (
        line.title,
        f"{_number(median(told.values))} {line.unit}".rstrip(),
        peer,
        compared,
        f"{_number(min(spread))} to {_number(max(spread))}" if len(spread) > 1 else "",
        str(line.target or ""),
        _MET[told.met],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=1)
