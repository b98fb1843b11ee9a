-- An invitation that is accepted by a code that people type instead of a link. The code is kept, so that it can be shown again.
ALTER TABLE invitations ADD COLUMN code TEXT;
CREATE UNIQUE INDEX invitations_by_code ON invitations (code);
-- When it was withdrawn. Those that were withdrawn before look used up.
ALTER TABLE invitations ADD COLUMN withdrawn_at BIGINT;
