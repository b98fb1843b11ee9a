-- Tenants of pools that were written to disk.
CREATE TABLE pool_saves (
    id         TEXT PRIMARY KEY,
    -- The tenant that is saved; once the phase is 'used', the one that continues from it.
    tenant_id  TEXT NOT NULL,
    pooled     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    phase      TEXT NOT NULL
);
