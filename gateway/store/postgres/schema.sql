-- Version 1. Times are seconds since 1970, except for leases, which are timestamps by the database's clock.
CREATE TABLE jobs (
  id      TEXT COLLATE "C" PRIMARY KEY,
  created DOUBLE PRECISION NOT NULL,
  target  BYTEA NOT NULL,    -- JSON: where the result can be read
  monitor BYTEA,             -- the monitor URL, a credential; set to NULL with the terminal event
  state   BYTEA NOT NULL,    -- JSON: the state in the newest event
  status  TEXT NOT NULL,
  seq     BIGINT NOT NULL,   -- the number of the newest event
  epoch   BIGINT NOT NULL,   -- raised when the job is claimed or stopped
  ended   DOUBLE PRECISION,
  owner   TEXT COLLATE "C"   -- the gateway that polls it; NULL while it is free
) WITH (fillfactor = 70);    -- appends change no indexed column: space for HOT updates on the same page
CREATE INDEX jobs_newest ON jobs (created, id);
CREATE INDEX jobs_owned ON jobs (owner, id) WHERE ended IS NULL;
CREATE INDEX jobs_ended ON jobs (ended) WHERE ended IS NOT NULL;

CREATE TABLE events (
  job_id TEXT COLLATE "C" NOT NULL,
  seq    BIGINT NOT NULL,
  kind   TEXT NOT NULL,
  turned BOOLEAN NOT NULL,   -- a change of status; progress events are trimmed first
  data   BYTEA NOT NULL,
  PRIMARY KEY (job_id, seq)
);
CREATE UNIQUE INDEX events_one_end ON events (job_id) WHERE kind <> 'progress';

CREATE TABLE keys (
  key         BYTEA PRIMARY KEY,  -- HMAC of the caller and the idempotency key
  fingerprint BYTEA NOT NULL,     -- of the request
  outcome     TEXT NOT NULL,      -- inFlight, job, unknown
  job_id      TEXT COLLATE "C",
  kept        DOUBLE PRECISION NOT NULL,
  owner       TEXT COLLATE "C" NOT NULL  -- the gateway that got the request, empty once that has found the outcome unknown
);
CREATE INDEX keys_job ON keys (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX keys_unknown ON keys (kept) WHERE outcome = 'unknown';
CREATE INDEX keys_in_flight ON keys (owner) WHERE outcome = 'inFlight';

CREATE TABLE callbacks (
  id        TEXT COLLATE "C" PRIMARY KEY,
  job_id    TEXT COLLATE "C" NOT NULL,
  receiver  BYTEA NOT NULL,  -- encrypted JSON: the URL and the secret
  events    BYTEA NOT NULL,  -- JSON: the subscribed kinds
  made      DOUBLE PRECISION NOT NULL,
  with_copy BOOLEAN NOT NULL,  -- registered by the copy request itself
  state     TEXT NOT NULL,   -- active, delivered, exhausted, gone
  settled   DOUBLE PRECISION,  -- when it left active
  epoch     BIGINT NOT NULL, -- raised when the callback is claimed or retried
  tries     BYTEA NOT NULL,  -- JSON: the cursor, the attempts, the time of the next
  owner     TEXT COLLATE "C"  -- the gateway that delivers it; NULL while it is free
);
CREATE INDEX callbacks_job ON callbacks (job_id, made, id);
CREATE INDEX callbacks_owned ON callbacks (owner, id) WHERE state = 'active';

-- One row per live gateway.
CREATE TABLE gateways (
  id        TEXT COLLATE "C" PRIMARY KEY,
  expires   TIMESTAMPTZ NOT NULL,
  jobs      BIGINT NOT NULL DEFAULT 0,   -- running jobs it owns, as last reported; -1: it is leaving
  callbacks BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
