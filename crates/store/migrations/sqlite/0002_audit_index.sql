-- Typical durations are taken from starts that ended well, which the audit knows.
CREATE INDEX audit_by_action ON audit (action, subject);
