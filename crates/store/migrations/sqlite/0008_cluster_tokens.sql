-- What opens the API server of one environment to one person: for a while, or, without an end, as long as the
-- environment lasts. One that was made by means of an API token ends with it.
CREATE TABLE cluster_tokens (
    token_hash     TEXT PRIMARY KEY,
    person_id      TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    api_token_id   TEXT REFERENCES api_tokens (id) ON DELETE CASCADE,
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT
);
CREATE INDEX cluster_tokens_by_end ON cluster_tokens (expires_at);
CREATE INDEX cluster_tokens_by_environment ON cluster_tokens (environment_id);
CREATE INDEX cluster_tokens_by_api_token ON cluster_tokens (api_token_id);
