-- Each stage of a start looks up the environment that its tenant belongs to.
CREATE INDEX environments_by_tenant ON environments (tenant_id);
-- While people wait in the queue, each pass reads the last environments that ended.
CREATE INDEX environments_gone ON environments (updated_at) WHERE phase = 'gone' AND activated IS NOT NULL;
-- Each pass reads the save points that are being made or deleted, or whose time is up.
CREATE INDEX save_points_by_phase ON save_points (phase);
CREATE INDEX save_points_by_end ON save_points (expires_at);
