SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running'))
     + (SELECT count(*) FROM shards WHERE status = 'pending')
     + (SELECT count(*) FROM model_versions WHERE status IN ('queued', 'building'))
