-- What a user looks at. Sizes and row counts are as of the last statistics run.

CREATE OR REPLACE VIEW orochi.tables AS
SELECT t.table_oid::regclass::text AS table_name,
    t.kind AS table_type,
    a.attname::text AS distribution_column,
    coalesce(s.shard_count, 0) AS shard_count,
    t.colocation_id,
    d.table_oid IS NOT NULL AS is_hypertable,
    h.attname::text AS time_column,
    coalesce(orochi._raw_interval(d.chunk_interval, orochi._base_type(h.atttypid))::text,
             d.chunk_interval::text) AS chunk_interval,
    t.storage_type,
    coalesce(s.row_count, 0) AS row_count,
    coalesce(s.size_bytes, 0) AS size_bytes
FROM orochi.orochi_tables t
JOIN pg_class c ON c.oid = t.table_oid
LEFT JOIN pg_attribute a ON a.attrelid = t.table_oid AND a.attnum = t.distribution_attnum
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
LEFT JOIN pg_attribute h ON h.attrelid = d.table_oid AND h.attnum = d.attnum
LEFT JOIN LATERAL (
    SELECT count(*)::integer AS shard_count, sum(row_count)::bigint AS row_count, sum(size_bytes)::bigint AS size_bytes
    FROM orochi.orochi_shards WHERE table_oid = t.table_oid) s ON true;

CREATE OR REPLACE VIEW orochi.shards AS
SELECT s.table_oid::regclass::text AS table_name, s.shard_id, s.shard_index, s.hash_min, s.hash_max,
    p.node_id, s.row_count, s.size_bytes
FROM orochi.orochi_shards s
JOIN LATERAL (SELECT node_id FROM orochi.orochi_shard_placements
              WHERE shard_id = s.shard_id ORDER BY ordinal, node_id LIMIT 1) p ON true;

CREATE OR REPLACE VIEW orochi.shard_placements AS
SELECT s.table_oid::regclass::text AS table_name, s.shard_id, s.shard_index, p.node_id, n.hostname, n.port,
    p.ordinal = 0 AS is_primary, p.state,
    'orochi_s' || s.shard_id || '_' || s.layout AS node_schema
FROM orochi.orochi_shards s
JOIN orochi.orochi_shard_placements p USING (shard_id)
JOIN orochi.orochi_nodes n USING (node_id);

CREATE OR REPLACE VIEW orochi.chunks AS
SELECT c.chunk_id,
    s.table_oid::regclass::text AS hypertable,
    c.shard_id,
    orochi._chunk_name(c.chunk_id) AS chunk_name,
    orochi._raw_to_timestamptz(c.range_start, y.oid) AS range_start,
    orochi._raw_to_timestamptz(c.range_end, y.oid) AS range_end,
    EXISTS (SELECT FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id) AS is_compressed,
    c.tier,
    c.row_count,
    c.size_bytes,
    u.last_read_at,
    CASE WHEN NOT orochi._is_time(y.oid) THEN c.range_start END AS range_start_integer,
    CASE WHEN NOT orochi._is_time(y.oid) THEN c.range_end END AS range_end_integer,
    s.shard_index,
    p.node_id
FROM orochi.orochi_chunks c
JOIN orochi.orochi_shards s USING (shard_id)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = s.table_oid AND d.ordinal = 1
LEFT JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
LEFT JOIN orochi.orochi_chunk_access u ON u.chunk_id = c.chunk_id
CROSS JOIN LATERAL (SELECT orochi._base_type(a.atttypid) AS oid) y;

CREATE OR REPLACE VIEW orochi.nodes AS
SELECT n.node_id, n.hostname, n.port, n.role, n.state,
    (SELECT count(*)::integer FROM orochi.orochi_shard_placements p WHERE p.node_id = n.node_id) AS shard_count,
    n.size_bytes, n.last_heartbeat, n.dbname, n.holds_shards
FROM orochi.orochi_nodes n;

CREATE OR REPLACE VIEW orochi.citus_tables AS
SELECT t.table_oid::regclass AS table_name, v.table_type AS citus_table_type,
    coalesce(v.distribution_column, '<none>') AS distribution_column, v.colocation_id,
    pg_size_pretty(v.size_bytes) AS table_size, v.shard_count::bigint AS shard_count,
    pg_get_userbyid(c.relowner) AS table_owner, CASE t.storage_type WHEN 'columnar' THEN 'columnar' ELSE 'heap' END AS access_method
FROM orochi.orochi_tables t JOIN pg_class c ON c.oid = t.table_oid
JOIN orochi.tables v ON v.table_name = t.table_oid::regclass::text;

CREATE OR REPLACE VIEW orochi.citus_shards AS
SELECT s.table_oid::regclass AS table_name, s.shard_id AS shardid,
    s.table_oid::regclass::text || '_' || s.shard_id AS shard_name,
    t.kind AS citus_table_type, t.colocation_id, n.hostname AS nodename, n.port AS nodeport,
    s.size_bytes AS shard_size
FROM orochi.orochi_shards s
JOIN orochi.orochi_tables t USING (table_oid)
JOIN pg_class c ON c.oid = t.table_oid
JOIN orochi.orochi_shard_placements p USING (shard_id)
JOIN orochi.orochi_nodes n USING (node_id);

CREATE SCHEMA IF NOT EXISTS timescaledb_information;

CREATE OR REPLACE VIEW timescaledb_information.hypertables AS
SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name, pg_get_userbyid(c.relowner) AS owner,
    ((SELECT count(*) FROM orochi.orochi_dimensions m WHERE m.table_oid = d.table_oid)
        + (t.kind = 'distributed')::integer)::smallint AS num_dimensions,
    (SELECT count(*) FROM orochi.orochi_chunks k JOIN orochi.orochi_shards s USING (shard_id)
     WHERE s.table_oid = c.oid) AS num_chunks,
    EXISTS (SELECT FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks k USING (chunk_id)
            JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = c.oid) AS compression_enabled,
    NULL::name[] AS tablespaces,
    a.attname AS primary_dimension,
    a.atttypid::regtype AS primary_dimension_type
FROM orochi.orochi_dimensions d
JOIN orochi.orochi_tables t USING (table_oid)
JOIN pg_class c ON c.oid = d.table_oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
WHERE d.ordinal = 1  -- the tables of continuous aggregates' buckets are in timescaledb_information.continuous_aggregates
    AND NOT EXISTS (SELECT FROM orochi.orochi_continuous_aggregates g WHERE g.materialization_oid = d.table_oid);

CREATE OR REPLACE VIEW timescaledb_information.dimensions AS
SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name, (d.ordinal + (d.ordinal > 1 AND t.kind = 'distributed')::integer)::bigint AS dimension_number,
    a.attname AS column_name, a.atttypid::regtype AS column_type, 'Time'::text AS dimension_type, -- TimescaleDB's word for ranges
    orochi._raw_interval(d.chunk_interval, orochi._base_type(a.atttypid)) AS time_interval,
    CASE WHEN NOT orochi._is_time(orochi._base_type(a.atttypid)) THEN d.chunk_interval END AS integer_interval,
    (SELECT p.proname FROM pg_proc p WHERE p.oid = (t.options -> 'integer_now' ->> 'oid')::oid AND d.ordinal = 1)
        AS integer_now_func,
    NULL::smallint AS num_partitions
FROM orochi.orochi_dimensions d
JOIN orochi.orochi_tables t USING (table_oid)
JOIN pg_class c ON c.oid = d.table_oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
UNION ALL
-- a hypertable's dimension by hash is what it is distributed by
SELECT n.nspname, c.relname, 2, a.attname, a.atttypid::regtype, 'Space', NULL, NULL, NULL,
    (SELECT count(*) FROM orochi.orochi_shards s WHERE s.table_oid = t.table_oid)::smallint
FROM orochi.orochi_dimensions d
JOIN orochi.orochi_tables t USING (table_oid)
JOIN pg_class c ON c.oid = t.table_oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = t.table_oid AND a.attnum = t.distribution_attnum
WHERE d.ordinal = 1 AND t.kind = 'distributed';

CREATE OR REPLACE VIEW timescaledb_information.chunks AS
SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name,
    'orochi_chunks'::name AS chunk_schema, ('chunk_' || k.chunk_id)::name AS chunk_name,
    a.attname AS primary_dimension, a.atttypid::regtype AS primary_dimension_type,
    v.range_start, v.range_end, v.range_start_integer, v.range_end_integer, v.is_compressed,
    NULL::name AS chunk_tablespace, k.created_at AS chunk_creation_time
FROM orochi.orochi_chunks k
JOIN orochi.orochi_shards s USING (shard_id)
JOIN pg_class c ON c.oid = s.table_oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN orochi.orochi_dimensions d ON d.table_oid = s.table_oid AND d.ordinal = 1
JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
JOIN orochi.chunks v ON v.chunk_id = k.chunk_id;

-- Which columns the stripes of a table are divided and ordered by.
CREATE OR REPLACE VIEW timescaledb_information.compression_settings AS
SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name, a.attname,
    s.position::smallint AS segmentby_column_index, o.position::smallint AS orderby_column_index,
    CASE WHEN o.position IS NOT NULL THEN o.item !~* '"\s+desc\M' END AS orderby_asc,
    CASE WHEN o.position IS NOT NULL THEN o.item ~* '\mnulls\s+first$'
        OR o.item ~* '"\s+desc\M' AND o.item !~* '\mnulls\s+last$' END AS orderby_nullsfirst
FROM orochi.orochi_tables t
JOIN pg_class c ON c.oid = t.table_oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN LATERAL (SELECT i.position FROM unnest(t.segmentby) WITH ORDINALITY AS i(item, position)
    WHERE i.item = a.attname LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT i.item, i.position FROM unnest(t.orderby) WITH ORDINALITY AS i(item, position)
    WHERE starts_with(i.item || ' ', '"' || replace(a.attname, '"', '""') || '" ') LIMIT 1) o ON true
WHERE EXISTS (SELECT FROM orochi.orochi_dimensions d WHERE d.table_oid = t.table_oid)
    AND coalesce(s.position, o.position) IS NOT NULL;
