-- The mail address that a person has confirmed, and whether they want mail about their environments.
ALTER TABLE people ADD COLUMN mail TEXT;
ALTER TABLE people ADD COLUMN wants_notices BOOLEAN NOT NULL DEFAULT FALSE;

-- Mail addresses that people have entered and not yet confirmed, with the hash of the code that was sent there.
CREATE TABLE mail_confirmations (
    person_id  TEXT PRIMARY KEY REFERENCES people (id) ON DELETE CASCADE,
    address    TEXT NOT NULL,
    code_hash  TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Mail to send. A row is deleted once its mail was sent or given up, because its text may have the secret of a link.
CREATE TABLE outbox (
    id         TEXT PRIMARY KEY,
    purpose    TEXT NOT NULL,
    -- The person who gets it; none for an invitation.
    person_id  TEXT REFERENCES people (id) ON DELETE CASCADE,
    address    TEXT NOT NULL,
    subject    TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    give_up_at BIGINT NOT NULL,
    -- The failed attempts, when the next one is due, and why the last one failed.
    attempts   BIGINT NOT NULL DEFAULT 0,
    next_at    BIGINT NOT NULL,
    problem    TEXT
);
CREATE INDEX outbox_by_time ON outbox (next_at);

-- Mail that was given up, without its text.
CREATE TABLE mail_failures (
    id        TEXT PRIMARY KEY,
    purpose   TEXT NOT NULL,
    person_id TEXT REFERENCES people (id) ON DELETE CASCADE,
    address   TEXT NOT NULL,
    failed_at BIGINT NOT NULL,
    attempts  BIGINT NOT NULL,
    problem   TEXT NOT NULL
);
CREATE INDEX mail_failures_by_time ON mail_failures (failed_at);

-- The issuer of the identity provider through which a session was begun; none otherwise.
ALTER TABLE sessions ADD COLUMN issuer TEXT;
