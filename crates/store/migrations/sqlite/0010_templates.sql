-- What an environment is made of names a template and what its lab allows, as its tenants do.
UPDATE tenants SET spec = json_object(
    'template', json_object(
        'image', json_extract(spec, '$.image'),
        'shape', CASE
            WHEN replace(json_extract(spec, '$.shape'), '-stock', '') GLOB '[13]+[0-4]'
                THEN replace(json_extract(spec, '$.shape'), '-stock', '')
            ELSE '1+0'
        END,
        'profile', CASE
            WHEN json_extract(spec, '$.image') NOT LIKE 'kubernetes-%' THEN 'plain'
            WHEN json_extract(spec, '$.shape') LIKE '%-stock' THEN 'stock'
            ELSE 'tuned'
        END),
    'allowance', json_object(
        'limits', json_extract(spec, '$.limits'),
        'egress', json_extract(spec, '$.egress')));

UPDATE environments SET spec = json_object(
    'tenant', json_object(
        'template', json_object(
            'image', json_extract(spec, '$.image'),
            'shape', CASE
                WHEN coalesce(json_extract(spec, '$.control_planes'), 1) IN (1, 3)
                    AND json_array_length(spec, '$.nodes')
                        BETWEEN coalesce(json_extract(spec, '$.control_planes'), 1) AND 5
                    THEN coalesce(json_extract(spec, '$.control_planes'), 1) || '+'
                        || (json_array_length(spec, '$.nodes') - coalesce(json_extract(spec, '$.control_planes'), 1))
                ELSE '1+0'
            END,
            'profile', CASE
                WHEN json_extract(spec, '$.image') NOT LIKE 'kubernetes-%' THEN 'plain'
                WHEN json_extract(spec, '$.stock') THEN 'stock'
                ELSE 'tuned'
            END),
        'allowance', json_object(
            'limits', json_extract(spec, '$.limits'),
            'egress', json_extract(spec, '$.egress'))),
    'setup_nodes', json(coalesce(json_extract(spec, '$.setup_nodes'), '[]')),
    'groups', json(coalesce(json_extract(spec, '$.groups'), '[]')));
