-- The maintenance that is in effect: at most one row.
CREATE TABLE maintenance (
    id                  INTEGER PRIMARY KEY CHECK (id = 1),
    began_at            BIGINT NOT NULL,
    message             TEXT NOT NULL,
    expected_end        BIGINT,
    end_environments_at BIGINT
);

-- The end by maintenance of which each environment's owner was told, and when.
CREATE TABLE end_notices (
    environment_id TEXT PRIMARY KEY REFERENCES environments (id) ON DELETE CASCADE,
    ends_at        BIGINT NOT NULL,
    told_at        BIGINT NOT NULL
);
