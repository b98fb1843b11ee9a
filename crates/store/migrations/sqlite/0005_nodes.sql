-- Nodes beyond those of the lab's template: which there should be (intent), and how each of them is (observation).
ALTER TABLE environments ADD COLUMN wanted_nodes TEXT NOT NULL DEFAULT '[]';
ALTER TABLE environments ADD COLUMN added_nodes TEXT NOT NULL DEFAULT '[]';
