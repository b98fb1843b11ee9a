-- A lab as it was when an environment of it was started, by the hash of its folder. Environments of before have none:
-- they go on with the lab as it is.
CREATE TABLE lab_contents (
    hash    TEXT PRIMARY KEY,
    content TEXT NOT NULL
);
ALTER TABLE environments ADD COLUMN lab_hash TEXT REFERENCES lab_contents (hash);
