"""The rows of the benchmark, in the order in which they are told."""

from __future__ import annotations

from tests.bench.row import Row
from tests.bench.rows import (
    appends,
    copies,
    database,
    jobs,
    lives,
    memory,
    polls,
    reconnect,
    start,
    streams,
    usual,
    waits,
    workers,
)

ROWS: dict[str, Row] = {
    one.ROW.name: one.ROW
    for one in (usual, streams, waits, reconnect, polls, lives, copies, jobs, appends, start, memory, workers, database)
}
