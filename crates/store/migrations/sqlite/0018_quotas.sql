-- Operators' exceptions from the default quotas, as JSON.
ALTER TABLE people ADD COLUMN quota TEXT NOT NULL DEFAULT '{}';
ALTER TABLE groups ADD COLUMN quota TEXT NOT NULL DEFAULT '{}';

-- When environments ran. A pause, a reset and the end each end a run.
CREATE TABLE runs (
    environment_id TEXT NOT NULL,
    person_id      TEXT NOT NULL REFERENCES people (id),
    began_at       BIGINT NOT NULL,
    ended_at       BIGINT,
    PRIMARY KEY (environment_id, began_at)
);
CREATE INDEX environments_by_creation ON environments (created_at);
CREATE INDEX runs_by_end ON runs (ended_at);
INSERT INTO runs (environment_id, person_id, began_at)
SELECT id, person_id, COALESCE(activated, updated_at) FROM environments WHERE phase = 'active';
