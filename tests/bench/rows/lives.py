"""Ways of polling over made-up lives of copies: how often each asks, and how late it knows that a copy has ended."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import mean, median

from tests.bench.chart import Axis, Chart
from tests.bench.lives import KINDS, LONG, LONGEST, WAYS, Kind, Seen, summed, watched
from tests.bench.row import Case, Figures, Line, Row, Runs, Target

NUMBER = 200
CLASSES = {
    "to 1 min": (0.0, 60.0),
    "1 to 5 min": (60.0, LONG),
    "5 to 30 min": (LONG, 1800.0),
    "over 30 min": (1800.0, LONGEST),
}
FIXED = "each second"


async def see(way: str, kind: Kind, _folder: Path, run: int) -> Figures:
    seen = watched(kind, NUMBER, run + 1, way)
    whole = summed(seen)
    figures = {"polls": whole.polls / whole.long, "lag": whole.mean_late, "too late": float(whole.too_late)}
    for name, (low, high) in CLASSES.items():
        figures |= _figures(name, [one for one in seen if low < one.life.length <= high])
    return figures


def _figures(name: str, seen: list[Seen]) -> Figures:
    return {f"polls, {name}": mean(one.polls for one in seen), f"lag, {name}": mean(one.late for one in seen)}


def _case(way: str, kind: Kind) -> str:
    return f"{way}, {kind}"


def _lines() -> list[Line]:
    lines = []
    for kind in KINDS:
        own, fixed = _case("gateway", kind), _case(FIXED, kind)
        polls, lag = (Target(0.1), Target(2.0)) if kind == "fine" else (None, None)
        lines += [
            Line(f"polls of a long job, progress {kind}", "", own, "polls", peer=fixed, target=polls),
            Line(f"mean lag of a long job, progress {kind}", "s", own, "lag", peer=fixed, target=lag),
            Line(f"seen too late, progress {kind}", f"of {NUMBER}", own, "too late", target=Target(0.0)),
        ]
    for way in WAYS:
        if way not in {"gateway", FIXED}:
            own, other = _case("gateway", "fine"), _case(way, "fine")
            lines.append(Line("polls of a long job, progress fine", "", own, "polls", peer=other))
            lines.append(Line("mean lag of a long job, progress fine", "s", own, "lag", peer=other))
    for name in CLASSES:
        own, fixed = _case("gateway", "fine"), _case(FIXED, "fine")
        lines.append(Line(f"polls, {name}, progress fine", "", own, f"polls, {name}", peer=fixed))
        lines.append(Line(f"mean lag, {name}, progress fine", "s", own, f"lag, {name}", peer=fixed))
    return lines


def _chart(runs: Runs) -> Chart:
    """Each way has a point for each kind of progress."""
    series = {}
    for way in WAYS:
        seen = [runs[_case(way, kind)] for kind in KINDS]
        series[way] = [(median(run["lag"] for run in one), median(run["polls"] for run in one)) for one in seen]
    return Chart(
        "polls-and-lag",
        "Copies over 5 minutes: progress fine, coarse or none",
        Axis("mean lag, seconds", log=True),
        Axis("polls of a copy", log=True),
        series,
        joined=False,
    )


ROW = Row(
    name="lives",
    about=(
        f"{NUMBER} made-up copies of seconds to hours for each kind of progress, with other ones each run, by the "
        "schedule that runs; long is over 5 minutes; too late is later than 3 % of its length, 0.5 s, or "
        "GATEWAY_POLL_MAX."
    ),
    cases=[Case(_case(way, kind), partial(see, way, kind)) for kind in KINDS for way in WAYS],
    lines=_lines(),
    chart=_chart,
)
