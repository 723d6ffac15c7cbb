-- Version 2. Callbacks: subscribers whose cursor is stored.
CREATE TABLE callbacks (
  id       TEXT PRIMARY KEY,
  job_id   TEXT NOT NULL,
  receiver BLOB NOT NULL,    -- sealed JSON: the URL and the secret
  events   BLOB NOT NULL,    -- JSON: the kinds it wants
  made     REAL NOT NULL,
  with_copy INTEGER NOT NULL, -- 1: registered by the copy request itself
  state    TEXT NOT NULL,    -- active, delivered, exhausted, gone
  settled  REAL,             -- when it left active
  epoch    INTEGER NOT NULL, -- raised whenever the callback changes hands
  tries    BLOB NOT NULL     -- JSON: the cursor, the attempts, when the next is due
) WITHOUT ROWID;
CREATE INDEX callbacks_job ON callbacks (job_id, made, id);
CREATE INDEX callbacks_active ON callbacks (id) WHERE state = 'active';
