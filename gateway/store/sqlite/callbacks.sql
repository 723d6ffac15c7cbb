-- Version 2. Callbacks (webhooks): subscribers whose cursor is stored.
CREATE TABLE callbacks (
  id       TEXT PRIMARY KEY,
  job_id   TEXT NOT NULL,
  receiver BLOB NOT NULL,    -- encrypted JSON: the URL and the secret
  events   BLOB NOT NULL,    -- JSON: the subscribed kinds
  made     REAL NOT NULL,
  with_copy INTEGER NOT NULL, -- 1: registered by the copy request itself
  state    TEXT NOT NULL,    -- active, delivered, exhausted, gone
  settled  REAL,             -- when it left active
  epoch    INTEGER NOT NULL, -- raised when the callback is claimed or retried
  tries    BLOB NOT NULL     -- JSON: the cursor, the attempts, the time of the next
) WITHOUT ROWID;
CREATE INDEX callbacks_job ON callbacks (job_id, made, id);
CREATE INDEX callbacks_active ON callbacks (id) WHERE state = 'active';
