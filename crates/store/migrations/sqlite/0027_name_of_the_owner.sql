-- Others see this name, so it says who that is.
UPDATE people SET name = 'Operator' WHERE id = 'local' AND name = 'You';
