"""The shared store's longer statements."""

from __future__ import annotations

APPEND = """
WITH held AS (
  SELECT g.*, now.* FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bigint[],
    $7::float8[]) AS g(id, epoch, first, state, status, seq, ended)
  CROSS JOIN LATERAL (
    SELECT j.epoch AS now_epoch, j.seq AS now_seq, j.ended AS now_ended FROM jobs j WHERE j.id = g.id FOR NO KEY UPDATE
  ) now
), moved AS (
  UPDATE jobs j SET state = h.state, status = h.status, seq = h.seq, ended = h.ended,
    monitor = CASE WHEN h.ended IS NULL THEN j.monitor END
  FROM held h
  WHERE j.id = h.id AND h.now_epoch = h.epoch AND h.now_ended IS NULL AND h.now_seq = h.first - 1
  RETURNING j.id
), added AS (
  INSERT INTO events (job_id, seq, kind, turned, data)
  SELECT e.* FROM unnest($8::text[], $9::bigint[], $10::text[], $11::bool[], $12::bytea[])
    AS e(job_id, seq, kind, turned, data) JOIN moved m ON m.id = e.job_id
)
SELECT id FROM moved UNION ALL SELECT id FROM held WHERE now_epoch = epoch AND now_seq = seq
"""
"""Returns the ids whose append is stored, now or by an earlier attempt whose response was lost.

Rows are locked in the order in which they are given, which must be that of their ids: then a job's owner and a gateway
that has lost the job cannot deadlock. A subquery that locks is run for one given row after the other, whatever the
planner knows of the table; in a join, the planner would choose the order.
"""

TRIM = """
DELETE FROM events e USING (
  SELECT o.job_id, o.seq FROM unnest($1::text[], $2::bigint[]) AS t(id, newest) CROSS JOIN LATERAL (
    SELECT job_id, seq FROM events WHERE job_id = t.id AND seq > 1 AND seq < t.newest ORDER BY turned, seq
    LIMIT greatest(0, (SELECT count(*) FROM events WHERE job_id = t.id) - $3::bigint)
  ) o
) gone WHERE e.job_id = gone.job_id AND e.seq = gone.seq
"""
"""Progress events are deleted first, then changes of status, the oldest first.

The first and the newest event are kept.
"""

READ = """
SELECT w.place, j.seq AS head, j.ended IS NOT NULL AS ended, e.seq, e.kind, e.turned, e.data
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w(id, after, most, place)
JOIN jobs j ON j.id = w.id
LEFT JOIN LATERAL (
  SELECT seq, kind, turned, data FROM events
  WHERE job_id = w.id AND seq > w.after AND j.seq > w.after ORDER BY seq LIMIT w.most
) e ON true
ORDER BY w.place, e.seq
"""

_UNNEEDED = """NOT EXISTS (
  SELECT 1 FROM callbacks c WHERE c.job_id = jobs.id
  AND (c.state = 'active' OR (c.state = 'exhausted' AND c.settled >= $1))
)"""
PAST = f"SELECT id FROM jobs WHERE ended < $1 AND {_UNNEEDED} LIMIT $2 FOR UPDATE SKIP LOCKED"
"""Locks the jobs to delete. A callback may be added or retried between its look at the callbacks and its lock."""
STILL_PAST = f"SELECT id FROM jobs WHERE id = ANY($2::text[]) AND {_UNNEEDED}"
"""Selects those of the locked jobs that may be deleted: from now on no callback of theirs can be added or retried."""

_SILENT = "(expires < clock_timestamp() OR expires > clock_timestamp() + interval '5400 seconds')"
"""Leases that have ended. No lease lasts longer than 2,700 s, so one that seems to dates from before the database's
clock was set back, and has not been renewed since.
"""
RENEW = f"""
WITH mine AS (
  UPDATE gateways SET expires = clock_timestamp() + $2::float8 * interval '1 second', jobs = $3, callbacks = $4
  WHERE id = $1 RETURNING 1
), others AS (
  SELECT count(*) AS count, coalesce(sum(jobs), 0)::bigint AS jobs, coalesce(sum(callbacks), 0)::bigint AS callbacks
  FROM gateways WHERE id <> $1 AND NOT {_SILENT} AND jobs >= 0
)
SELECT (SELECT count(*) FROM mine) AS alive, extract(epoch FROM clock_timestamp())::float8 AS now, o.*,
  (SELECT count(*) FROM gateways WHERE id <> $1 AND {_SILENT}) AS silent,
  (SELECT count(*) FROM jobs WHERE owner IS NULL AND ended IS NULL) AS free_jobs,
  (SELECT count(*) FROM callbacks WHERE owner IS NULL AND state = 'active') AS free_callbacks
FROM others o
"""

TROUBLED = """
SELECT count(*) AS jobs, count(*) FILTER (WHERE position('"trouble":{'::bytea IN state) > 0) AS troubled
FROM jobs WHERE ended IS NULL AND position($1::bytea IN target) > 0
"""
"""It reads every running job, so it is asked only when a gateway with few jobs of a host may lose one.

The columns are searched as bytes, since PostgreSQL takes no NUL from JSON. Quotes in a string of a caller's are
escaped, so a member's name and its quotes are found nowhere else.
"""

OTHER_MARKS = f"SELECT count(*) FROM gateways WHERE NOT {_SILENT} AND mark IS DISTINCT FROM $1"
"""Counts the live gateways that encrypt with another key than the one with this mark, or do not tell."""

EXPIRE_MEMBERS = f"""
DELETE FROM gateways WHERE id IN (
  SELECT id FROM gateways WHERE {_SILENT} FOR UPDATE SKIP LOCKED
) RETURNING id
"""

MARK_UNKNOWN = """
UPDATE keys SET outcome = 'unknown' WHERE key IN (
  SELECT key FROM keys WHERE outcome = 'inFlight' AND owner NOT IN (SELECT id FROM gateways) FOR UPDATE SKIP LOCKED
)
"""

_OWNERS = """
WITH RECURSIVE owners AS (
  (SELECT owner FROM {table} WHERE owner IS NOT NULL AND {live} ORDER BY owner LIMIT 1)
  UNION ALL
  SELECT (SELECT owner FROM {table} WHERE owner > o.owner AND {live} ORDER BY owner LIMIT 1)
  FROM owners o WHERE o.owner IS NOT NULL
)
SELECT owner FROM owners WHERE owner IS NOT NULL AND owner NOT IN (SELECT id FROM gateways)
"""
_FREE = """
UPDATE {table} SET owner = NULL WHERE id IN (
  SELECT id FROM {table} WHERE owner = ANY($1::text[]) AND {live} ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
) RETURNING 1
"""
_CLAIM = """
WITH free AS (
  SELECT id FROM {table} WHERE owner IS NULL AND {live} ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE {table} t SET owner = $1, epoch = epoch + 1 FROM free WHERE t.id = free.id RETURNING {columns}
"""
_RELEASE = """
UPDATE {table} SET owner = NULL WHERE id IN (
  SELECT id FROM {table} WHERE owner = $1 AND id = ANY($2::text[]) AND {live} ORDER BY id FOR UPDATE
)
"""
_EPOCHS = "SELECT id, epoch FROM {table} WHERE id = ANY($1::text[])"
_OWNED = "SELECT id FROM {table} WHERE owner = $1 AND {live}"


class Owned:
    """The statements that change the owner of a table's rows; `live` is the condition for rows that have an owner."""

    def __init__(self, table: str, live: str, columns: str) -> None:
        names = {"table": table, "live": live, "columns": ", ".join(f"t.{name}" for name in columns.split(", "))}
        self.dead_owners = _OWNERS.format(**names)
        """Selects the owners that are no live gateway. It skips through the index, however many rows an owner has."""
        self.free = _FREE.format(**names)
        self.claim = _CLAIM.format(**names)
        self.release = _RELEASE.format(**names)
        self.owned = _OWNED.format(**names)
        self.epochs = _EPOCHS.format(**names)
