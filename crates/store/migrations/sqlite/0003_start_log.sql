-- What happened during a start, a line an event: stages say how it stands, this says how it came there. Kept over a
-- second try, bounded by who writes it.
CREATE TABLE start_log (
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    position       BIGINT NOT NULL,
    at             BIGINT NOT NULL,
    stage          TEXT NOT NULL,
    text           TEXT NOT NULL,
    PRIMARY KEY (environment_id, position)
);
