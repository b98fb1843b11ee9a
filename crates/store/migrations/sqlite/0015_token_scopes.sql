-- What an API token may do, and when it ends. Tokens of before may do everything and don't end.
ALTER TABLE api_tokens ADD COLUMN scope TEXT NOT NULL DEFAULT '"full"';
ALTER TABLE api_tokens ADD COLUMN expires_at BIGINT;
