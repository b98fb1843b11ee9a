-- What a provider makes and frees, apart from the environments that run on it. Those of before keep their ids.
CREATE TABLE tenants (
    id             TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    spec           TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    state          TEXT NOT NULL,
    phase          TEXT NOT NULL,
    is_final       BOOLEAN NOT NULL,
    observed       TEXT,
    generation     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);
CREATE INDEX tenants_unfinished ON tenants (is_final, created_at);
CREATE INDEX tenants_by_environment ON tenants (environment_id, created_at);

ALTER TABLE environments ADD COLUMN tenant_id TEXT REFERENCES tenants (id);

INSERT INTO tenants (id, environment_id, spec, created_at, state, phase, is_final, observed, generation, updated_at)
SELECT id, id,
    json_object(
        'image', json_extract(spec, '$.image'),
        'shape', max(coalesce(json_extract(spec, '$.control_planes'), 1), 1)
            || '+' || (json_array_length(spec, '$.nodes') - max(coalesce(json_extract(spec, '$.control_planes'), 1), 1))
            || CASE WHEN json_extract(spec, '$.stock') THEN '-stock' ELSE '' END,
        'limits', json_extract(spec, '$.limits'),
        'egress', json_extract(spec, '$.egress')),
    created_at,
    CASE
        WHEN phase = 'provisioning'
            THEN json_object('state', 'provisioning', 'since', json_extract(state, '$.since'))
        WHEN phase = 'releasing'
            THEN json_object('state', 'releasing', 'since', json_extract(state, '$.since'))
        ELSE json_object('state', 'claimed', 'since',
            coalesce(json_extract(state, '$.since'), json_extract(state, '$.at')))
    END,
    CASE WHEN phase IN ('provisioning', 'releasing') THEN phase ELSE 'claimed' END,
    FALSE, observed, 0, updated_at
FROM environments
WHERE NOT is_final AND phase <> 'requested';

UPDATE environments SET tenant_id = id WHERE NOT is_final AND phase <> 'requested';
UPDATE environments SET state = json_set(state, '$.state', 'requested'), phase = 'requested'
WHERE phase = 'provisioning';
UPDATE environments SET state = json_set(state, '$.state', 'expired'), phase = 'expired'
WHERE phase = 'releasing';
ALTER TABLE environments DROP COLUMN observed;
