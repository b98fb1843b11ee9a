-- Groups, such as a class or a company. Instructors are members who see the others' progress.
CREATE TABLE groups (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE TABLE group_members (
    group_id  TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    person_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    instructs BOOLEAN NOT NULL,
    PRIMARY KEY (group_id, person_id)
);
CREATE INDEX group_members_by_person ON group_members (person_id);
-- The group that whoever accepts an invitation becomes a member of.
ALTER TABLE invitations ADD COLUMN group_id TEXT REFERENCES groups (id) ON DELETE CASCADE;
