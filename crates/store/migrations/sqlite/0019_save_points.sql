-- What environments were saved, and what for. The files belong to the provider.
CREATE TABLE save_points (
    id             TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    tenant_id      TEXT NOT NULL REFERENCES tenants (id),
    person_id      TEXT NOT NULL REFERENCES people (id),
    lab            TEXT NOT NULL,
    lab_hash       TEXT,
    spec           TEXT NOT NULL,
    added_nodes    TEXT NOT NULL,
    purpose        TEXT NOT NULL,
    name           TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    state          TEXT NOT NULL,
    phase          TEXT NOT NULL
);
CREATE INDEX save_points_by_person ON save_points (person_id, created_at);
CREATE INDEX save_points_by_environment ON save_points (environment_id, created_at);
CREATE INDEX save_points_unfinished ON save_points (created_at) WHERE phase <> 'complete';
