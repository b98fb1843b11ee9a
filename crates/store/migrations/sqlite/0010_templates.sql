-- What an environment is made of names a template and what its lab allows, as its tenants do.
UPDATE tenants SET spec = json_object(
    'template', json_object(
        'image', json_extract(spec, '$.image'),
        'shape', replace(json_extract(spec, '$.shape'), '-stock', ''),
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
            'shape', max(coalesce(json_extract(spec, '$.control_planes'), 1), 1)
                || '+' || (json_array_length(spec, '$.nodes') - max(coalesce(json_extract(spec, '$.control_planes'), 1), 1)),
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
