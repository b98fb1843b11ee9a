-- Accounts of several people: login names, passwords (argon2id, as PHC strings), invitations.
ALTER TABLE people ADD COLUMN login TEXT;
ALTER TABLE people ADD COLUMN password TEXT;
ALTER TABLE people ADD COLUMN disabled_at BIGINT;
ALTER TABLE people ADD COLUMN last_sign_in BIGINT;
ALTER TABLE people ADD COLUMN invitation_id TEXT;
-- Who made a sign-in link for somebody else.
ALTER TABLE sign_in_tokens ADD COLUMN made_by TEXT;
CREATE UNIQUE INDEX people_by_login ON people (login);

-- Kept after the last use and after the end, since people refer to them.
CREATE TABLE invitations (
    id         TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    note       TEXT NOT NULL,
    role       TEXT NOT NULL,
    uses_left  BIGINT NOT NULL,
    created_by TEXT NOT NULL REFERENCES people (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
