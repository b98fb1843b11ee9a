-- What a stage is about, beside what happens in it now. Of what was written before, the last words are all there is.
ALTER TABLE stage_events ADD COLUMN title TEXT NOT NULL DEFAULT '';
UPDATE stage_events SET title = text;
