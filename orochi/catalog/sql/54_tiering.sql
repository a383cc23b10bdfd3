-- Tiers: how often chunks are used, what policies there are, and what they decided.

-- How many reads count after some time: half of them for each day.
CREATE OR REPLACE FUNCTION orochi._faded(reads double precision, since timestamptz) RETURNS double precision
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT reads * pg_catalog.power(0.5,
        least(greatest(extract(epoch FROM orochi._now() - since), 0) / 86400, 1000))::double precision
$$;

CREATE OR REPLACE FUNCTION orochi._grown(seen bigint, now_seen bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
    SELECT CASE WHEN now_seen < seen THEN now_seen ELSE now_seen - seen END
$$;

CREATE OR REPLACE VIEW orochi.chunk_access AS
SELECT s.table_oid::regclass::text AS hypertable, orochi._chunk_name(c.chunk_id) AS chunk_name, c.tier,
    coalesce(u.reads, 0) AS reads, coalesce(u.writes, 0) AS writes,
    round(coalesce(orochi._faded(u.recent_reads, u.counted_at), 0)::numeric, 2) AS recent_reads,
    u.last_read_at, u.last_write_at
FROM orochi.orochi_chunks c
JOIN orochi.orochi_shards s USING (shard_id)
LEFT JOIN orochi.orochi_chunk_access u USING (chunk_id);

CREATE OR REPLACE VIEW orochi.tiering_policies AS
SELECT j.table_oid::regclass::text AS relation, j.config ->> 'hot_after' AS hot_after,
    j.config ->> 'warm_after' AS warm_after, j.config ->> 'cold_after' AS cold_after,
    coalesce((j.config ->> 'adaptive')::boolean, false) AS adaptive, j.job_id, j.schedule_interval
FROM orochi.orochi_jobs j WHERE j.kind = 'tiering';

-- Policies by table, as the catalog kept them before they were jobs.
CREATE OR REPLACE VIEW orochi.orochi_tiering_policies AS
SELECT j.table_oid, j.config ->> 'hot_after' AS hot_after, j.config ->> 'warm_after' AS warm_after,
    j.config ->> 'cold_after' AS cold_after
FROM orochi.orochi_jobs j WHERE j.kind = 'tiering';

CREATE OR REPLACE VIEW orochi.tiering_decisions AS
SELECT d.decision_id, d.decided_at, d.job_id, d.table_oid::regclass::text AS relation,
    orochi._chunk_name(d.chunk_id) AS chunk_name, d.from_tier, d.to_tier, d.reason, d.outcome, d.message
FROM orochi.orochi_tiering_decisions d;
