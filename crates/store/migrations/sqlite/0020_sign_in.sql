-- Accounts at identity providers by which people sign in.
CREATE TABLE identities (
    id         TEXT PRIMARY KEY,
    person_id  TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    account    TEXT NOT NULL,
    -- True if the person joined by it; false if they linked it later.
    is_origin  BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    last_used  BIGINT,
    UNIQUE (issuer, subject)
);
CREATE INDEX identities_by_person ON identities (person_id, created_at);

-- The public keys of passkeys, as JSON of the WebAuthn library.
CREATE TABLE passkeys (
    id         TEXT PRIMARY KEY,
    person_id  TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    credential TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    passkey    TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used  BIGINT
);
CREATE INDEX passkeys_by_person ON passkeys (person_id, created_at);
