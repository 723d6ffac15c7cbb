-- Version 1. Times are seconds since 1970.
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE jobs (
  id      TEXT PRIMARY KEY,
  created REAL NOT NULL,
  target  BLOB NOT NULL,     -- JSON: where the result can be read
  monitor BLOB,              -- the monitor URL, a credential; set to NULL with the terminal event
  state   BLOB NOT NULL,     -- JSON: the state in the newest event
  status  TEXT NOT NULL,
  seq     INTEGER NOT NULL,  -- the number of the newest event
  epoch   INTEGER NOT NULL,  -- raised when the job is claimed or stopped
  ended   REAL
) WITHOUT ROWID;
CREATE INDEX jobs_newest ON jobs (created, id);
CREATE INDEX jobs_running ON jobs (id) WHERE ended IS NULL;
CREATE INDEX jobs_ended ON jobs (ended) WHERE ended IS NOT NULL;

CREATE TABLE events (
  job_id TEXT NOT NULL,
  seq    INTEGER NOT NULL,
  kind   TEXT NOT NULL,
  turned INTEGER NOT NULL,   -- 1: a change of status, 0: progress, trimmed first
  data   BLOB NOT NULL,
  PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_one_end ON events (job_id) WHERE kind != 'progress';

CREATE TABLE keys (
  key         BLOB PRIMARY KEY,  -- HMAC of the caller and the idempotency key
  fingerprint BLOB NOT NULL,     -- of the request
  outcome     TEXT NOT NULL,     -- inFlight, job, unknown
  job_id      TEXT,
  kept        REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_job ON keys (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX keys_unknown ON keys (kept) WHERE outcome = 'unknown';
