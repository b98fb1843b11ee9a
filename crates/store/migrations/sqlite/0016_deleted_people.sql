-- A deleted person's row stays without a name, because environments, attempts and the audit log refer to it.
ALTER TABLE people ADD COLUMN deleted_at BIGINT;
