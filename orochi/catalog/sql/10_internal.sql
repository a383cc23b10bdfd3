-- Helpers that the other files use. Everything here runs on the coordinator only.

CREATE OR REPLACE VIEW orochi.orochi_catalog_version AS
    SELECT coalesce(sum(weight), 0)::bigint AS version,
        coalesce(sum(weight) FILTER (WHERE NOT is_layout), 0)::bigint AS definitions
    FROM orochi.orochi_catalog_changes;

CREATE OR REPLACE FUNCTION orochi._bump() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO orochi.orochi_catalog_changes DEFAULT VALUES;
    SELECT pg_catalog.pg_notify('orochi_catalog', '');
$$;

-- The same after a change that only concerns where rows of these shards are: no name, type, column or right.
-- NULL stands for any shards.
DROP FUNCTION IF EXISTS orochi._bump_layout();
CREATE OR REPLACE FUNCTION orochi._bump_layout(shards bigint[] DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO orochi.orochi_catalog_changes (is_layout, shards) VALUES (true, _bump_layout.shards);
    SELECT pg_catalog.pg_notify('orochi_catalog', 'layout');
$$;

CREATE OR REPLACE FUNCTION orochi._base_type(type_oid oid) RETURNS oid
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = '' AS $$
    WITH RECURSIVE step AS (
        SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = type_oid
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM step JOIN pg_type t ON t.oid = step.typbasetype
        WHERE step.typtype = 'd'
    )
    SELECT oid FROM step WHERE typtype <> 'd'
$$;

-- How far an expression's value depends on when and where it is computed: 'i', 's' or 'v', as
-- pg_proc says of the functions in its stored tree. Casts through text count as stable.
CREATE OR REPLACE FUNCTION orochi._volatility(tree pg_node_tree) RETURNS "char"
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = '' AS $$
    SELECT CASE WHEN tree IS NULL THEN 'i'::"char"
        WHEN tree::text ~ '\{NEXTVALUEEXPR\M' OR 'v' = ANY(found.kinds) THEN 'v'::"char"
        WHEN tree::text ~ '\{(SQLVALUEFUNCTION|COERCEVIAIO|CURRENTOFEXPR)\M' OR 's' = ANY(found.kinds) THEN 's'::"char"
        ELSE 'i'::"char" END
    FROM (SELECT array_agg(coalesce(p.provolatile, 'v')) AS kinds
          FROM regexp_matches(tree::text, ':(?:func|opfunc)id (\d+)', 'g') AS part(parts)
          LEFT JOIN pg_proc p ON p.oid = parts[1]::oid) AS found
$$;

-- Time ranges are kept in raw units: what PostgreSQL stores. Microseconds since 2000-01-01 for
-- timestamps, days since 2000-01-01 for dates, the value itself for integers.
CREATE OR REPLACE FUNCTION orochi._interval_microseconds(value interval) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ((extract(year FROM value) * 12 + extract(month FROM value)) * 2592000000000
            + extract(day FROM value) * 86400000000
            + extract(hour FROM value) * 3600000000 + extract(minute FROM value) * 60000000
            + extract(microseconds FROM value))::bigint
$$;

-- Ranges may reach past the finite values: there stand the infinities.
CREATE OR REPLACE FUNCTION orochi._raw_to_timestamptz(raw bigint, type_oid oid) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN type_oid IN ('timestamptz'::regtype, 'timestamp'::regtype) THEN
            CASE WHEN raw >= 9223371331200000000 THEN 'infinity'::timestamptz
                WHEN raw < -211813488000000000 THEN '-infinity'::timestamptz
                ELSE timestamptz '2000-01-01 00:00:00+00' + raw * interval '1 microsecond' END
        WHEN type_oid = 'date'::regtype THEN
            CASE WHEN raw >= 106751983 THEN 'infinity'::timestamptz
                WHEN raw < -2451545 THEN '-infinity'::timestamptz
                ELSE (date '2000-01-01' + raw::integer)::timestamp AT TIME ZONE 'UTC' END END
$$;

CREATE OR REPLACE FUNCTION orochi._raw_interval(raw bigint, type_oid oid) RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN type_oid IN ('timestamptz'::regtype, 'timestamp'::regtype)
            THEN make_interval(days => (raw / 86400000000)::integer,
                               secs => (raw % 86400000000)::double precision / 1000000)
        WHEN type_oid = 'date'::regtype THEN make_interval(days => raw::integer) END
$$;

CREATE OR REPLACE FUNCTION orochi._is_time(type_oid oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT type_oid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) $$;

CREATE OR REPLACE FUNCTION orochi._timestamptz_to_raw(value timestamptz, type_oid oid) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN NOT isfinite(value) THEN
            CASE WHEN value > '2000-01-01' THEN 9223372036854775807 ELSE -9223372036854775808 END
        ELSE CASE type_oid
        WHEN 'timestamptz'::regtype THEN ((extract(epoch FROM value) - 946684800) * 1000000)::bigint
        WHEN 'timestamp'::regtype THEN ((extract(epoch FROM value::timestamp) - 946684800) * 1000000)::bigint
        WHEN 'date'::regtype THEN value::date - date '2000-01-01' END END
$$;

-- Runs the gateway's catalog changes inside the client's transaction, with the rights of the
-- function's owner. The token proves that the gateway made this statement for this backend.
CREATE OR REPLACE FUNCTION orochi._gateway_execute(token text, statement text) RETURNS SETOF json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET standard_conforming_strings = 'on' SET orochi.follows = 'on' AS $$
DECLARE
    expected text;
BEGIN
    SELECT encode(sha256(convert_to(secret || ':' || pg_backend_pid() || ':' || statement, 'UTF8')), 'hex')
        INTO STRICT expected FROM orochi.orochi_secret;
    IF token IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'permission denied for function _gateway_execute' USING ERRCODE = '42501';
    END IF;
    IF statement ~* '^\s*(select|with|values)\M' OR statement ~* '\mreturning\M' THEN
        RETURN QUERY EXECUTE format(
            'WITH answer AS (%s) SELECT (SELECT json_agg(item.value ORDER BY item.ordinality)
                FROM json_each_text(row_to_json(answer)) WITH ORDINALITY AS item) FROM answer', statement);
    ELSE
        EXECUTE statement;
    END IF;
END $$;

-- The commit decision of a distributed transaction, written in the client's own transaction.
CREATE OR REPLACE FUNCTION orochi._record_decision(gid text, node_ids integer[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO orochi.orochi_transactions (gid, node_id) SELECT _record_decision.gid, unnest(node_ids);
$$;

-- What \d+ prints as a table's access method, where the server has one of that name (`access_method.sql`).
CREATE OR REPLACE FUNCTION orochi._set_access_method(relation oid, method name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET orochi.follows = 'on' AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_am WHERE amname = method)
       AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = relation AND m.amname = method)
    THEN
        EXECUTE format('ALTER TABLE %s SET ACCESS METHOD %I', relation::regclass, method);
    END IF;
END $$;

-- Takes a table out of the catalog and queues what its nodes hold for deletion.
CREATE OR REPLACE FUNCTION orochi._forget_table(relation oid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id)
        SELECT p.node_id, 'shard', s.shard_id
        FROM orochi.orochi_shards s JOIN orochi.orochi_shard_placements p USING (shard_id)
        WHERE s.table_oid = relation;
    INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id)
        SELECT p.node_id, 'chunk', c.chunk_id
        FROM orochi.orochi_shards s JOIN orochi.orochi_shard_placements p USING (shard_id)
            JOIN orochi.orochi_chunks c USING (shard_id)
        WHERE s.table_oid = relation;
    INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)
        SELECT f.node_id, 'stripe', f.stripe_id, f.path, now() + interval '1 minute'
        FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
            JOIN orochi.orochi_stripes f USING (chunk_id)
        WHERE s.table_oid = relation;
    -- whoever joins the group now has its row locked, and keeps it
    WITH gone AS (DELETE FROM orochi.orochi_tables WHERE table_oid = relation RETURNING colocation_id),
        free AS (SELECT g.colocation_id FROM orochi.orochi_colocation_groups g JOIN gone USING (colocation_id)
            FOR UPDATE OF g SKIP LOCKED)
    DELETE FROM orochi.orochi_colocation_groups g USING free
        WHERE g.colocation_id = free.colocation_id AND NOT EXISTS (
            SELECT FROM orochi.orochi_tables t WHERE t.colocation_id = g.colocation_id AND t.table_oid <> relation);
$$;
REVOKE EXECUTE ON FUNCTION orochi._forget_table(oid), orochi._bump(), orochi._bump_layout(bigint[]), orochi._set_access_method(oid, name) FROM PUBLIC;

-- A table leaves its shards, which are swept later, and its group, for shards of another one.
CREATE OR REPLACE FUNCTION orochi._leave_shards(relation oid, new_group integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id)
        SELECT p.node_id, 'shard', s.shard_id
        FROM orochi.orochi_shards s JOIN orochi.orochi_shard_placements p USING (shard_id)
        WHERE s.table_oid = relation
        UNION ALL SELECT p.node_id, 'chunk', c.chunk_id
        FROM orochi.orochi_shards s JOIN orochi.orochi_shard_placements p USING (shard_id)
            JOIN orochi.orochi_chunks c USING (shard_id)
        WHERE s.table_oid = relation;
    DELETE FROM orochi.orochi_shards WHERE table_oid = relation;
    -- whoever joins the group now has its row locked, and keeps it
    WITH gone AS (SELECT colocation_id FROM orochi.orochi_tables WHERE table_oid = relation),
        free AS (SELECT g.colocation_id FROM orochi.orochi_colocation_groups g JOIN gone USING (colocation_id)
            WHERE NOT EXISTS (
                SELECT FROM orochi.orochi_tables t WHERE t.colocation_id = g.colocation_id AND t.table_oid <> relation)
            FOR UPDATE OF g SKIP LOCKED),
        moved AS (UPDATE orochi.orochi_tables SET colocation_id = new_group WHERE table_oid = relation)
    DELETE FROM orochi.orochi_colocation_groups g USING free WHERE g.colocation_id = free.colocation_id;
$$;
REVOKE EXECUTE ON FUNCTION orochi._leave_shards(oid, integer) FROM PUBLIC;
