-- What a tenant exposes: the last report of its reconciler, as JSON. Observation.
CREATE TABLE exposures (
    tenant_id TEXT PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    report    TEXT NOT NULL
);

-- Links by which anybody can open an exposure until they expire.
CREATE TABLE exposure_shares (
    id             TEXT PRIMARY KEY,
    secret_hash    TEXT NOT NULL UNIQUE,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    name           TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL
);
CREATE INDEX exposure_shares_by_environment ON exposure_shares (environment_id, created_at);
CREATE INDEX exposure_shares_by_end ON exposure_shares (expires_at);

-- Codes that are exchanged for a cookie once, and cookies by which a browser opens an exposure. Each ends with the
-- session or the share that it was made with.
CREATE TABLE exposure_visits (
    secret_hash    TEXT PRIMARY KEY,
    is_code        BOOLEAN NOT NULL,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    name           TEXT NOT NULL,
    session_hash   TEXT REFERENCES sessions (token_hash) ON DELETE CASCADE,
    share_id       TEXT REFERENCES exposure_shares (id) ON DELETE CASCADE,
    expires_at     BIGINT NOT NULL,
    CHECK ((session_hash IS NULL) <> (share_id IS NULL))
);
CREATE INDEX exposure_visits_by_environment ON exposure_visits (environment_id);
CREATE INDEX exposure_visits_by_session ON exposure_visits (session_hash);
CREATE INDEX exposure_visits_by_share ON exposure_visits (share_id);
CREATE INDEX exposure_visits_by_end ON exposure_visits (expires_at);
