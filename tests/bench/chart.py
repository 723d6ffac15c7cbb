"""A chart as SVG, on a light page and on a dark one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

import msgspec

WIDTH, HEIGHT = 750, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 180, 48, 56
COLOURS = ("#2f81f7", "#d97706", "#8957e5", "#1a9e5c", "#d6409f")
"""Strong enough on white and on black."""
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.grid { stroke: #8c959f; stroke-opacity: .35 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""
LABEL_HEIGHT = 16

Point = tuple[float, float]


class Axis(msgspec.Struct, frozen=True):
    """From 0, or over powers of ten when `log` is set."""

    title: str
    log: bool = False

    def ticks(self, values: Sequence[float]) -> list[float]:
        """Round numbers of which the first and the last enclose the values."""
        if self.log:
            low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            return [10.0**power for power in range(low, max(high, low + 1) + 1)]
        magnitude = 10.0 ** math.floor(math.log10(max(values)))
        step = next(part * magnitude for part in (0.2, 0.5, 1, 2) if max(values) / (part * magnitude) <= 6)
        return [number * step for number in range(math.ceil(max(values) / step) + 1)]

    def share(self, value: float, ticks: Sequence[float]) -> float:
        """Where on the axis a value lies, from 0 to 1."""
        low, high = ticks[0], ticks[-1]
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


class Chart(msgspec.Struct, frozen=True):
    """`series` are points by name, joined by a line when `joined`; each name stands beside its last point."""

    name: str
    title: str
    x: Axis
    y: Axis
    series: Mapping[str, Sequence[Point]]
    joined: bool = True

    def svg(self) -> str:
        points = [point for series in self.series.values() for point in series]
        x_ticks, y_ticks = self.x.ticks([x for x, _ in points]), self.y.ticks([y for _, y in points])

        def at(point: Point) -> Point:
            x, y = self.x.share(point[0], x_ticks), self.y.share(point[1], y_ticks)
            return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>",
            _text(LEFT, TOP - 24, self.title, "start", "title"),
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, self.x.title, "middle"),
            f'<g transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)">{_text(0, 0, self.y.title, "middle")}</g>',
        ]
        for tick in x_ticks:
            x, _ = at((tick, y_ticks[0]))
            parts += [_line(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 20, _short(tick), "middle")]
        for tick in y_ticks:
            _, y = at((x_ticks[0], tick))
            parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, _short(tick), "end")]
        ends = _apart([at(series[-1])[1] for series in self.series.values()])
        for (name, series), colour, label in zip(self.series.items(), COLOURS, ends, strict=False):
            parts += _series(name, [at(point) for point in series], colour, label, joined=self.joined)
        return "\n".join([*parts, "</svg>", ""])


def _series(name: str, points: Sequence[Point], colour: str, label: float, *, joined: bool) -> list[str]:
    parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
    if joined:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    x = WIDTH - RIGHT + 14
    parts.append(f'<rect x="{x}" y="{label - 5:.1f}" width="10" height="10" rx="2" fill="{colour}"/>')
    return [*parts, _text(x + 16, label + 4, name, "start")]


def _apart(wanted: Sequence[float]) -> list[float]:
    """Heights near the wanted ones, none of them over another."""
    placed = list(wanted)
    for before, place in pairwise(sorted(range(len(wanted)), key=wanted.__getitem__)):
        placed[place] = max(placed[place], placed[before] + LABEL_HEIGHT)
    return placed


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>'


_short: Callable[[float], str] = "{:,.6g}".format
