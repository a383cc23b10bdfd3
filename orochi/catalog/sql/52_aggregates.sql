-- What a user sees of continuous aggregates.
CREATE OR REPLACE VIEW orochi.continuous_aggregates AS
SELECT a.view_oid::regclass::text AS view_name, a.table_oid::regclass::text AS source_table,
    a.materialization_oid::regclass::text AS materialization_table, a.bucket ->> 'column' AS bucket_column,
    a.materialized_only,
    -- NULL until something is materialised: many drivers cannot read -infinity
    nullif(orochi._raw_to_timestamptz(l.watermark, (a.bucket ->> 'type_oid')::oid), '-infinity') AS watermark,
    l.watermark AS watermark_raw,
    pg_get_viewdef(a.query_oid) AS view_definition, a.created_at
FROM orochi.orochi_continuous_aggregates a
LEFT JOIN LATERAL (SELECT max(i.lowest) AS watermark FROM orochi.orochi_invalidation_log i
    WHERE i.aggregate_id = a.aggregate_id AND i.reason = 'new' AND i.greatest = 9223372036854775807) l ON true;

CREATE OR REPLACE VIEW timescaledb_information.continuous_aggregates AS
SELECT sn.nspname AS hypertable_schema, s.relname AS hypertable_name,
    vn.nspname AS view_schema, v.relname AS view_name, pg_get_userbyid(v.relowner) AS view_owner,
    a.materialized_only,
    EXISTS (SELECT FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks k USING (chunk_id)
            JOIN orochi.orochi_shards h USING (shard_id) WHERE h.table_oid = m.oid) AS compression_enabled,
    mn.nspname AS materialization_hypertable_schema, m.relname AS materialization_hypertable_name,
    pg_get_viewdef(a.query_oid) AS view_definition, true AS finalized
FROM orochi.orochi_continuous_aggregates a
JOIN pg_class s ON s.oid = a.table_oid JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN pg_class v ON v.oid = a.view_oid JOIN pg_namespace vn ON vn.oid = v.relnamespace
JOIN pg_class m ON m.oid = a.materialization_oid JOIN pg_namespace mn ON mn.oid = m.relnamespace;
