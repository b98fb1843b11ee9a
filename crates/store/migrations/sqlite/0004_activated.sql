-- Typical durations are taken from starts that ended well. That was read from the audit, which is trimmed from now on:
-- an environment remembers itself when it could be used first.
ALTER TABLE environments ADD COLUMN activated BIGINT;
UPDATE environments SET activated =
    (SELECT min(at) FROM audit WHERE action = 'active' AND subject = environments.id);
CREATE INDEX environments_activated ON environments (created_at) WHERE activated IS NOT NULL;
DROP INDEX audit_by_action;
