-- A person's public keys in their machines. Intent: the version of the set, which each addition and removal raises.
-- Observation: the version that was last applied to each node of a tenant; nodes of before have none and get the keys again.
ALTER TABLE people ADD COLUMN keys_version BIGINT NOT NULL DEFAULT 0;

CREATE TABLE node_keys (
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    node      TEXT NOT NULL,
    version   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, node)
);

-- Keys that were removed and may still be in a machine: whatever else a student has in the same file stays there.
CREATE TABLE removed_ssh_keys (
    person_id   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL,
    removed_at  BIGINT NOT NULL,
    PRIMARY KEY (person_id, fingerprint)
);

-- Those that were removed before, as far as the audit remembers them.
INSERT INTO removed_ssh_keys (person_id, fingerprint, removed_at)
SELECT DISTINCT audit.person_id, audit.detail, CAST(strftime('%s', 'now') AS INTEGER) * 1000000
FROM audit JOIN people ON people.id = audit.person_id
WHERE audit.action = 'key-add' AND audit.detail LIKE 'SHA256:%' AND NOT EXISTS (
    SELECT 1 FROM ssh_keys
    WHERE ssh_keys.person_id = audit.person_id AND ssh_keys.fingerprint = audit.detail);
