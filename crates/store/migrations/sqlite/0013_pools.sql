-- Tenants of a pool belong to no environment until they are claimed. SQLite can't drop NOT NULL, so the column is replaced.
DROP INDEX tenants_by_environment;
ALTER TABLE tenants RENAME COLUMN environment_id TO made_for;
ALTER TABLE tenants ADD COLUMN environment_id TEXT REFERENCES environments (id) ON DELETE CASCADE;
UPDATE tenants SET environment_id = made_for;
ALTER TABLE tenants DROP COLUMN made_for;
CREATE INDEX tenants_by_environment ON tenants (environment_id, created_at);
-- What a tenant was made of, if it was made for a pool; how long that took; and the memory that it has to itself while paused.
ALTER TABLE tenants ADD COLUMN pooled TEXT;
ALTER TABLE tenants ADD COLUMN made_in_millis BIGINT;
ALTER TABLE tenants ADD COLUMN paused_bytes BIGINT;
CREATE INDEX tenants_of_pools ON tenants (created_at) WHERE pooled IS NOT NULL;

-- The demand, from which pools forecast theirs: each start and reset, what served it, and when it left the queue and could
-- be used.
CREATE TABLE starts (
    environment_id TEXT NOT NULL,
    requested_at   BIGINT NOT NULL,
    lab            TEXT NOT NULL,
    served_by      TEXT,
    served_at      BIGINT,
    active_at      BIGINT,
    PRIMARY KEY (environment_id, requested_at)
);
CREATE INDEX starts_by_time ON starts (requested_at);
INSERT INTO starts (environment_id, requested_at, lab, served_by, served_at, active_at)
SELECT id, created_at, lab, 'clone', created_at, activated FROM environments;

CREATE TABLE pool_bounds (
    pool    TEXT PRIMARY KEY,
    floor   BIGINT NOT NULL,
    ceiling BIGINT NOT NULL
);

CREATE TABLE announced_events (
    id         TEXT PRIMARY KEY,
    lab        TEXT NOT NULL,
    begins_at  BIGINT NOT NULL,
    seats      BIGINT NOT NULL,
    note       TEXT NOT NULL,
    created_by TEXT NOT NULL REFERENCES people (id)
);
CREATE INDEX announced_events_by_time ON announced_events (begins_at);
