-- Functions that only read the catalog: they work on any connection to the coordinator.

CREATE OR REPLACE FUNCTION orochi.orochi_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'Orochi @VERSION@' $$;

DO $$
BEGIN
    IF to_regtype('orochi.dimension_info') IS NULL THEN
        CREATE TYPE orochi.dimension_info AS (
            kind text, column_name name, chunk_interval orochi.time_value, partitions integer);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION orochi.by_range(column_name name, partition_interval orochi.time_value DEFAULT NULL)
RETURNS orochi.dimension_info LANGUAGE sql IMMUTABLE AS
$$ SELECT ('range', column_name, partition_interval, NULL)::orochi.dimension_info $$;

CREATE OR REPLACE FUNCTION orochi.by_hash(column_name name, number_partitions integer)
RETURNS orochi.dimension_info LANGUAGE sql IMMUTABLE AS
$$ SELECT ('hash', column_name, NULL, number_partitions)::orochi.dimension_info $$;

-- The hash that picks a shard: PostgreSQL's own, of the type's hash operator class.
CREATE OR REPLACE FUNCTION orochi.hash_value(value anyelement) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL THEN
        RETURN 0;
    END IF;
    CASE orochi._base_type(pg_typeof(value))::regtype
        WHEN 'smallint'::regtype THEN RETURN hashint2(value::text::smallint);
        WHEN 'integer'::regtype THEN RETURN hashint4(value::text::integer);
        WHEN 'bigint'::regtype THEN RETURN hashint8(value::text::bigint);
        WHEN 'text'::regtype, 'character varying'::regtype THEN RETURN hashtext(value::text);
        WHEN 'uuid'::regtype THEN RETURN uuid_hash(value::text::uuid);
        WHEN 'date'::regtype THEN RETURN hashint4(value::text::date - date '2000-01-01');
        WHEN 'timestamp'::regtype THEN RETURN timestamp_hash(value::text::timestamp);
        WHEN 'timestamptz'::regtype THEN
            RETURN timestamp_hash(value::text::timestamptz AT TIME ZONE 'UTC');
        ELSE
            RAISE EXCEPTION 'tables cannot be distributed by type %', pg_typeof(value) USING ERRCODE = '42804';
    END CASE;
END $$;

CREATE OR REPLACE FUNCTION orochi.hash_value(value text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(hashtext(value), 0) $$;

CREATE OR REPLACE FUNCTION orochi._shard_of(relation regclass, value text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    type_name text;
    hash integer;
BEGIN
    SELECT format_type(a.atttypid, a.atttypmod) INTO type_name
        FROM orochi.orochi_tables t
        JOIN pg_attribute a ON a.attrelid = t.table_oid AND a.attnum = t.distribution_attnum
        WHERE t.table_oid = relation;
    IF type_name IS NULL THEN
        RAISE EXCEPTION '% is not a distributed table', relation USING ERRCODE = '42809';
    END IF;
    EXECUTE format('SELECT orochi.hash_value($1::%s)', type_name) INTO hash USING value;
    RETURN (SELECT shard_id FROM orochi.orochi_shards
            WHERE table_oid = relation AND hash BETWEEN hash_min AND hash_max);
END $$;

CREATE OR REPLACE FUNCTION orochi.get_shard_for_value(table_name regclass, value anyelement) RETURNS bigint
LANGUAGE sql STABLE AS $$ SELECT orochi._shard_of(table_name, value::text) $$;

CREATE OR REPLACE FUNCTION orochi.get_shard_for_value(table_name regclass, value text) RETURNS bigint
LANGUAGE sql STABLE AS $$ SELECT orochi._shard_of(table_name, value) $$;

-- The table of rows behind a relation: of a continuous aggregate, the one that keeps its buckets.
CREATE OR REPLACE FUNCTION orochi._rows_of(relation regclass) RETURNS regclass
LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT a.materialization_oid::regclass FROM orochi.orochi_continuous_aggregates a
                     WHERE a.view_oid = relation), relation)
$$;

-- What a user calls it.
CREATE OR REPLACE FUNCTION orochi._shown(relation regclass) RETURNS regclass
LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT a.view_oid::regclass FROM orochi.orochi_continuous_aggregates a
                     WHERE a.materialization_oid = relation), relation)
$$;

CREATE OR REPLACE FUNCTION orochi._dimension_type(relation regclass) RETURNS oid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    result oid;
BEGIN
    SELECT orochi._base_type(a.atttypid) INTO result FROM orochi.orochi_dimensions d
        JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
        WHERE d.table_oid = relation AND d.ordinal = 1;
    IF result IS NULL THEN
        RAISE EXCEPTION '% is not a hypertable', relation USING ERRCODE = '42809',
            HINT = 'Make it one with create_hypertable().';
    END IF;
    RETURN result;
END $$;

-- A point in time in the dimension's raw units: an interval is an age.
CREATE OR REPLACE FUNCTION orochi._boundary(relation regclass, value orochi.time_value) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    type_oid oid := orochi._dimension_type(relation);
    kind text := orochi._time_kind(value);
    content text := orochi._time_text(value);
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    ELSIF (kind = 'integer') = orochi._is_time(type_oid) THEN
        RAISE EXCEPTION '"%" cannot bound the time column of %, of type %', content, orochi._shown(relation), type_oid::regtype
            USING ERRCODE = '22023', HINT = CASE WHEN orochi._is_time(type_oid)
                THEN 'Give an interval or a timestamp.' ELSE 'Give an integer.' END;
    ELSIF kind = 'integer' THEN
        RETURN content::bigint;
    ELSIF kind = 'interval' THEN
        RETURN orochi._timestamptz_to_raw(orochi._now() - content::interval, type_oid);
    ELSIF kind <> 'literal' THEN
        RETURN orochi._timestamptz_to_raw(content::timestamptz, type_oid);
    END IF;
    BEGIN
        RETURN orochi._timestamptz_to_raw(content::timestamptz, type_oid);
    EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow THEN
        RETURN orochi._timestamptz_to_raw(orochi._now() - content::interval, type_oid);
    END;
END $$;

CREATE OR REPLACE FUNCTION orochi._chunk_name(chunk_id bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'orochi_chunks.chunk_' || chunk_id $$;

CREATE OR REPLACE FUNCTION orochi.hypertable_approximate_size(hypertable regclass) RETURNS bigint
LANGUAGE sql STABLE AS
$$ SELECT sum(size_bytes)::bigint FROM orochi.orochi_shards WHERE table_oid = orochi._rows_of(hypertable) $$;

CREATE OR REPLACE FUNCTION orochi.approximate_row_count(relation regclass) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT sum(row_count)::bigint FROM orochi.orochi_shards WHERE table_oid = orochi._rows_of(relation)),
                    (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = relation))
$$;

CREATE OR REPLACE FUNCTION orochi.chunk_compression_stats(hypertable regclass) RETURNS TABLE (
    chunk_schema name, chunk_name name, compression_status text,
    before_compression_total_bytes bigint, after_compression_total_bytes bigint, node_name name)
LANGUAGE sql STABLE AS $$
    SELECT 'orochi_chunks', 'chunk_' || c.chunk_id,
        CASE WHEN count(f.stripe_id) > 0 THEN 'Compressed' ELSE 'Uncompressed' END,
        sum(f.heap_bytes)::bigint, sum(f.size_bytes)::bigint, 'n' || min(p.node_id)
    FROM orochi.orochi_shards s
    JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
    JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
    LEFT JOIN orochi.orochi_stripes f USING (chunk_id)
    WHERE s.table_oid = orochi._rows_of(hypertable)
    GROUP BY c.chunk_id, c.range_start ORDER BY c.range_start, c.chunk_id
$$;

CREATE OR REPLACE FUNCTION orochi.hypertable_compression_stats(hypertable regclass) RETURNS TABLE (
    total_chunks bigint, number_compressed_chunks bigint,
    before_compression_total_bytes bigint, after_compression_total_bytes bigint, node_name name)
LANGUAGE sql STABLE AS $$
    SELECT count(*), count(*) FILTER (WHERE compression_status = 'Compressed'),
        sum(before_compression_total_bytes)::bigint, sum(after_compression_total_bytes)::bigint, NULL::name
    FROM orochi.chunk_compression_stats(hypertable)
$$;
