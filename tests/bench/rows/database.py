"""How far one database goes: gateways on it that append as often as they can; for deploy/README.md."""

from __future__ import annotations

from functools import partial

from tests.bench.row import Case, Line, Row
from tests.bench.rows.appends import on_postgres, postgres_missing

GATEWAYS = (1, 2, 4, 8)
JOBS = 500


def _lines(gateways: int) -> list[Line]:
    case = f"{gateways} gateways"
    return [
        Line(f"appends a second, {case}", "", case, "appends a second"),
        Line(f"p50, {case}", "ms", case, "p50"),
        Line(f"p99, {case}", "ms", case, "p99"),
        Line(f"a gateway's CPU of an append, {case}", "us", case, "us"),
        Line(f"the database's, {case}", "us", case, "database us"),
    ]


ROW = Row(
    name="database",
    about=f"PostgreSQL with fsync on; gateways with {JOBS} jobs each, which change as often as they can.",
    cases=[
        Case(f"{count} gateways", partial(on_postgres, count, JOBS, 0.0), (postgres_missing,)) for count in GATEWAYS
    ],
    lines=[line for count in GATEWAYS for line in _lines(count)],
)
