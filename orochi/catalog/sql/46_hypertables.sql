-- Hypertables as the catalog knows them: their chunks by time or by when they were made, sizes as of the last
-- statistics, and what now is where time is an integer.

-- Chunks wholly inside of what the arguments bound.
CREATE OR REPLACE FUNCTION orochi._chunks_of(
    relation regclass, older_than orochi.time_value, newer_than orochi.time_value,
    created_before orochi.time_value, created_after orochi.time_value) RETURNS SETOF text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    oldest bigint;
    newest bigint;
    made_from timestamptz;
    made_to timestamptz;
BEGIN
    -- the chunks of other columnar tables, one for each shard, have no range
    IF older_than IS NOT NULL OR newer_than IS NOT NULL
       OR NOT EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = relation AND t.storage_type = 'columnar') THEN
        PERFORM orochi._dimension_type(relation);
    END IF;
    IF (older_than IS NOT NULL OR newer_than IS NOT NULL) AND (created_before IS NOT NULL OR created_after IS NOT NULL) THEN
        RAISE EXCEPTION 'cannot specify "older_than" or "newer_than" together with "created_before" or "created_after"'
            USING ERRCODE = '22023';
    END IF;
    IF newer_than IS NOT NULL THEN
        oldest := orochi._boundary(relation, newer_than);
    END IF;
    IF older_than IS NOT NULL THEN
        newest := orochi._boundary(relation, older_than);
    END IF;
    made_from := orochi._moment(created_after);
    made_to := orochi._moment(created_before);
    IF oldest > newest OR made_from > made_to THEN
        RAISE EXCEPTION 'invalid time range'
            USING ERRCODE = '22023', HINT = 'The start of the time range must be before the end.';
    END IF;
    RETURN QUERY SELECT orochi._chunk_name(c.chunk_id)
        FROM orochi.orochi_chunks c JOIN orochi.orochi_shards s USING (shard_id)
        WHERE s.table_oid = relation AND (newest IS NULL OR c.range_end <= newest)
            AND (oldest IS NULL OR c.range_start >= oldest)
            AND (made_to IS NULL OR c.created_at < made_to) AND (made_from IS NULL OR c.created_at >= made_from)
        ORDER BY c.range_start, s.shard_index;
END $$;

-- A point in time: an interval is an age.
CREATE OR REPLACE FUNCTION orochi._moment(value orochi.time_value) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    kind text := orochi._time_kind(value);
    content text := orochi._time_text(value);
BEGIN
    IF kind = 'integer' THEN
        RAISE EXCEPTION 'invalid time argument "%"', content
            USING ERRCODE = '22023', HINT = 'Give an interval or a timestamp.';
    ELSIF kind = 'interval' THEN
        RETURN orochi._now() - content::interval;
    ELSIF kind <> 'literal' THEN
        RETURN content::timestamptz;
    END IF;
    BEGIN
        RETURN content::timestamptz;
    EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow THEN
        RETURN orochi._now() - content::interval;
    END;
END $$;

CREATE OR REPLACE FUNCTION orochi.show_chunks(
    relation regclass, older_than orochi.time_value DEFAULT NULL, newer_than orochi.time_value DEFAULT NULL,
    created_before orochi.time_value DEFAULT NULL, created_after orochi.time_value DEFAULT NULL)
RETURNS SETOF text LANGUAGE sql STABLE AS
$$ SELECT orochi._chunks_of(orochi._rows_of(relation), older_than, newer_than, created_before, created_after) $$;

-- What `set_integer_now_func` set, called with the search_path of who set it. Policies call it with Orochi's
-- rights, so for a superuser it runs only if another one made it.
CREATE OR REPLACE FUNCTION orochi._integer_now(relation regclass) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- a continuous aggregate's is its source's
    given jsonb := (SELECT t.options -> 'integer_now' FROM orochi.orochi_tables t
        WHERE t.table_oid = coalesce((SELECT a.table_oid FROM orochi.orochi_continuous_aggregates a
                                      WHERE a.materialization_oid = relation), relation));
    before text := pg_catalog.current_setting('search_path');
    trusted boolean;
    result bigint;
BEGIN
    IF given IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT owner.rolsuper OR NOT me.rolsuper INTO trusted FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_roles owner ON owner.oid = p.proowner, pg_catalog.pg_roles me
        WHERE p.oid = (given ->> 'oid')::oid AND me.rolname = current_user;
    IF trusted IS NULL THEN
        RAISE EXCEPTION 'the integer_now function of % was dropped', relation
            USING ERRCODE = '42883', HINT = 'Set another one with set_integer_now_func().';
    ELSIF NOT trusted THEN
        RAISE EXCEPTION 'permission denied for the integer_now function of %', relation
            USING ERRCODE = '42501', HINT = 'Policies call it with Orochi''s rights: a superuser has to own it.';
    END IF;
    PERFORM pg_catalog.set_config('search_path', given ->> 'search_path', true);
    EXECUTE pg_catalog.format('SELECT %s()::bigint', (given ->> 'oid')::oid::regproc) INTO result;
    PERFORM pg_catalog.set_config('search_path', before, true);
    RETURN result;
END $$;
