-- Times are microseconds since 1970. JSON is text. Intent and observation are separate columns: requests write the
-- first, reconcilers the second.

CREATE TABLE people (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    role        TEXT NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE TABLE sessions (
    token_hash  TEXT PRIMARY KEY,
    person_id   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX sessions_by_end ON sessions (expires_at);

CREATE TABLE sign_in_tokens (
    token_hash  TEXT PRIMARY KEY,
    person_id   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id          TEXT PRIMARY KEY,
    token_hash  TEXT NOT NULL UNIQUE,
    person_id   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    last_used   BIGINT
);

CREATE TABLE ssh_keys (
    id          TEXT PRIMARY KEY,
    person_id   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    public_key  TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    UNIQUE (person_id, public_key)
);
CREATE INDEX ssh_keys_by_key ON ssh_keys (public_key);

CREATE TABLE attempts (
    id          TEXT PRIMARY KEY,
    person_id   TEXT NOT NULL REFERENCES people (id),
    lab         TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    finished_at BIGINT,
    gave_up     BOOLEAN NOT NULL,
    points      BIGINT
);
CREATE INDEX attempts_by_person ON attempts (person_id, lab, started_at);

CREATE TABLE environments (
    id           TEXT PRIMARY KEY,
    attempt_id   TEXT NOT NULL REFERENCES attempts (id),
    person_id    TEXT NOT NULL REFERENCES people (id),
    lab          TEXT NOT NULL,
    spec         TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    -- intent
    intent       TEXT NOT NULL,
    expires_at   BIGINT NOT NULL,
    hard_end     BIGINT NOT NULL,
    last_used    BIGINT NOT NULL,
    idle_seconds BIGINT NOT NULL,
    -- observation
    state        TEXT NOT NULL,
    phase        TEXT NOT NULL,
    is_final     BOOLEAN NOT NULL,
    observed     TEXT,
    warned       BIGINT,
    generation   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE INDEX environments_unfinished ON environments (is_final, created_at);
CREATE INDEX environments_by_person ON environments (person_id, created_at);
CREATE INDEX environments_by_attempt ON environments (attempt_id, created_at);

CREATE TABLE stage_events (
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    position       BIGINT NOT NULL,
    stage          TEXT NOT NULL,
    text           TEXT NOT NULL,
    fraction       DOUBLE PRECISION,
    started_at     BIGINT NOT NULL,
    millis         BIGINT,
    cached         BOOLEAN NOT NULL,
    PRIMARY KEY (environment_id, position)
);

CREATE TABLE hint_reveals (
    attempt_id  TEXT NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    number      BIGINT NOT NULL,
    cost        BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (attempt_id, number)
);

CREATE TABLE check_runs (
    id             TEXT PRIMARY KEY,
    attempt_id     TEXT NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    started_at     BIGINT NOT NULL,
    finished_at    BIGINT,
    passed         BOOLEAN,
    failure        TEXT
);
CREATE INDEX check_runs_by_environment ON check_runs (environment_id, started_at);
CREATE INDEX check_runs_by_attempt ON check_runs (attempt_id, started_at);

CREATE TABLE check_results (
    run_id    TEXT NOT NULL REFERENCES check_runs (id) ON DELETE CASCADE,
    position  BIGINT NOT NULL,
    name      TEXT NOT NULL,
    title     TEXT NOT NULL,
    passed    BOOLEAN NOT NULL,
    message   TEXT NOT NULL,
    seen      TEXT NOT NULL,
    evaluated BOOLEAN NOT NULL,
    hint      BIGINT,
    millis    BIGINT NOT NULL,
    PRIMARY KEY (run_id, position)
);

CREATE TABLE audit (
    id        INTEGER PRIMARY KEY,
    at        BIGINT NOT NULL,
    person_id TEXT,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    detail    TEXT NOT NULL
);
