-- What decides how PostgreSQL prints a view (class pg_rewrite) or a generation expression (pg_attrdef): the
-- stored tree and the names of what it depends on. While it is the same, so is the text; reading it takes no
-- lock of a table, as printing does.
CREATE OR REPLACE FUNCTION orochi._text_key(class oid, object oid, tree text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT md5(class::text || ' ' || object::text || tree || coalesce((
        SELECT string_agg(concat_ws(' ', d.refclassid, d.refobjid, d.refobjsubid,
                (SELECT o.identity FROM pg_identify_object(d.refclassid, d.refobjid, 0) AS o),
                CASE WHEN d.refclassid = 'pg_class'::regclass THEN
                    (SELECT string_agg(a.attnum || ' ' || quote_ident(a.attname), ',' ORDER BY a.attnum)
                     FROM pg_attribute a WHERE a.attrelid = d.refobjid AND a.attnum > 0) END,
                CASE WHEN d.refclassid = 'pg_type'::regclass THEN
                    (SELECT string_agg(l.oid || ' ' || quote_literal(l.enumlabel), ',' ORDER BY l.oid)
                     FROM pg_enum l WHERE l.enumtypid IN (d.refobjid,
                         (SELECT y.typelem FROM pg_type y WHERE y.oid = d.refobjid))) END),
            ';' ORDER BY d.refclassid, d.refobjid, d.refobjsubid, d.deptype)
        FROM pg_depend d WHERE d.classid = class AND d.objid = object), ''))
$$;

-- PostgreSQL's text of a view or of a generation expression; NULL if another session is just dropping what it is of:
-- the catalog has it still for an older snapshot, and the printing knows no other error for that.
CREATE OR REPLACE FUNCTION orochi._printed(view oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN pg_get_viewdef(view);
EXCEPTION WHEN internal_error THEN
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION orochi._printed(expression pg_node_tree, relation oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN pg_get_expr(expression, relation);
EXCEPTION WHEN internal_error THEN
    RETURN NULL;
END
$$;

-- Of stripes, those of the shards `wanted` or all: the least and greatest raw value of each further dimension by
-- range, [NULL, NULL] where the skip list does not have them. No row where the table has no such dimension.
CREATE OR REPLACE FUNCTION orochi._stripe_bounds(wanted bigint[]) RETURNS TABLE (stripe_id bigint, bounds json)
LANGUAGE sql STABLE AS $$
    SELECT f.stripe_id, json_agg(json_build_array(k.least, k.greatest) ORDER BY d.ordinal)
    FROM orochi.orochi_dimensions d
    JOIN pg_catalog.pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
    JOIN orochi.orochi_shards s ON s.table_oid = d.table_oid
    JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
    JOIN orochi.orochi_stripes f ON f.chunk_id = c.chunk_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN g.whole THEN g.least END AS least, CASE WHEN g.whole THEN g.greatest END AS greatest
        FROM (SELECT min(m.min_value::bigint) AS least, max(m.max_value::bigint) AS greatest,
                sum(m.row_count) = f.row_count AND count(*) = count(m.min_value) AND sum(m.null_count) = 0 AS whole
              FROM orochi.orochi_column_chunks m
              WHERE m.stripe_id = f.stripe_id AND m.column_name = a.attname) g) k
    WHERE d.ordinal > 1 AND (wanted IS NULL OR s.shard_id = ANY (wanted))
    GROUP BY f.stripe_id
$$;

-- Everything planning needs, in one statement and so in one MVCC snapshot: rows of (kind, JSON).
-- search_path is empty so that every printed name is qualified; PL/pgSQL keeps the plan.
-- To print an expression with columns, or a view, PostgreSQL locks the relations that it reads. Unless `patient`,
-- the texts that would wait for another transaction's ACCESS EXCLUSIVE lock are NULL, with their keys.
DROP FUNCTION IF EXISTS orochi._snapshot();
CREATE OR REPLACE FUNCTION orochi._snapshot(patient boolean DEFAULT true) RETURNS TABLE (kind text, data json)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
DECLARE
    held oid[] := '{}';
BEGIN
    IF NOT patient THEN
        held := ARRAY(SELECT l.relation FROM pg_locks l WHERE l.locktype = 'relation'
            AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
    END IF;
    RETURN QUERY
    SELECT 'version', to_json(version) FROM orochi.orochi_catalog_version
    UNION ALL
    SELECT 'definitions', to_json(definitions) FROM orochi.orochi_catalog_version
    UNION ALL
    SELECT 'changes', json_agg(change_id) FROM orochi.orochi_catalog_changes
    UNION ALL
    SELECT 'nodes', json_agg(json_build_array(node_id, hostname, port, dbname, role, state, holds_shards))
        FROM orochi.orochi_nodes
    UNION ALL
    SELECT 'tables', json_agg(json_build_object(
            'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', t.kind,
            'owner', pg_get_userbyid(c.relowner), 'colocation', t.colocation_id, 'storage', t.storage_type,
            'segmentby', t.segmentby, 'orderby', t.orderby,
            'distribution', (SELECT json_build_array(a.attname, orochi._base_type(a.atttypid)::bigint)
                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = t.distribution_attnum),
            'dimension', (SELECT json_build_array(a.attname, orochi._base_type(a.atttypid)::bigint, d.chunk_interval)
                FROM orochi.orochi_dimensions d
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.attnum
                WHERE d.table_oid = c.oid AND d.ordinal = 1),
            'further', (SELECT json_agg(json_build_array(a.attname, orochi._base_type(a.atttypid)::bigint,
                    d.chunk_interval) ORDER BY d.ordinal)
                FROM orochi.orochi_dimensions d
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.attnum
                WHERE d.table_oid = c.oid AND d.ordinal > 1),
            'columns', (SELECT json_agg(json_build_array(
                    a.attname, a.attnum, a.atttypid::bigint,
                    CASE WHEN y.typtype = 'd' THEN orochi._base_type(y.oid) ELSE y.oid END::bigint,
                    a.atttypmod,
                    -- rows that a check NOT VALID does not hold for are read all the same; nodes check what is written
                    CASE WHEN y.typtype = 'd' AND EXISTS (SELECT FROM pg_constraint v
                            WHERE v.contypid IN (y.oid, y.typbasetype) AND NOT v.convalidated)
                        THEN format_type(orochi._base_type(y.oid), y.typtypmod)
                        ELSE format_type(a.atttypid, a.atttypmod) END, a.attnotnull,
                    CASE WHEN a.attcollation <> y.typcollation THEN
                        (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                         FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                         WHERE co.oid = a.attcollation) END,
                    -- has no columns: takes no lock; a domain's own default counts where the column has none
                    CASE WHEN a.attgenerated = '' THEN pg_get_expr(coalesce(e.adbin, y.typdefaultbin), 0)
                        WHEN NOT c.oid = ANY (held) THEN orochi._printed(e.adbin, e.adrelid) END,
                    coalesce(orochi._volatility(coalesce(e.adbin, y.typdefaultbin)) <> 'i', false),
                    a.attidentity, a.attgenerated,
                    CASE WHEN a.attgenerated <> '' THEN
                        orochi._text_key('pg_attrdef'::regclass, e.oid, e.adbin::text) END) ORDER BY a.attnum)
                FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
                LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            'indexes', (SELECT json_agg(x.relname ORDER BY x.relname)
                FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid),
            'referenced_by', f.keys,
            'unique', (SELECT json_agg((SELECT json_agg(a.attname ORDER BY k.ordinality)
                    FROM unnest(i.indkey::smallint[]) WITH ORDINALITY k
                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.k
                    WHERE k.ordinality <= i.indnkeyatts) ORDER BY i.indisprimary DESC, i.indexrelid)
                FROM pg_index i
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL)))
        FROM orochi.orochi_tables t JOIN pg_class c ON c.oid = t.table_oid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        -- by the tables that have the keys: pg_constraint has no index by those they refer to
        LEFT JOIN (SELECT k.confrelid, json_agg(json_build_array(k.conrelid::bigint,
                (SELECT json_agg(a.attname ORDER BY n.ordinality) FROM unnest(k.conkey) WITH ORDINALITY n
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.n),
                (SELECT json_agg(a.attname ORDER BY n.ordinality) FROM unnest(k.confkey) WITH ORDINALITY n
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.n),
                k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r')) ORDER BY k.oid) AS keys
            FROM orochi.orochi_tables o JOIN pg_constraint k ON k.conrelid = o.table_oid AND k.contype = 'f'
            GROUP BY k.confrelid) f ON f.confrelid = c.oid
    UNION ALL
    SELECT 'shards', json_agg(json_build_array(s.shard_id, s.table_oid::bigint, s.shard_index, s.hash_min,
            s.hash_max, s.layout, p.node_ids, s.row_count, s.size_bytes) ORDER BY s.table_oid, s.shard_index)
        FROM orochi.orochi_shards s
        JOIN (SELECT shard_id, json_agg(node_id ORDER BY ordinal, node_id) AS node_ids
              FROM orochi.orochi_shard_placements WHERE state = 'active' GROUP BY shard_id) p USING (shard_id)
    UNION ALL
    SELECT 'chunks', json_agg(json_build_array(chunk_id, shard_id, range_start, range_end, generation, tier)
            ORDER BY shard_id, range_start)
        FROM orochi.orochi_chunks
    UNION ALL
    SELECT 'stripes', json_agg(json_build_array(f.stripe_id, f.chunk_id, f.path, f.row_count, f.size_bytes, f.time_min,
            f.time_max, b.bounds) ORDER BY f.chunk_id, f.stripe_id)
        FROM orochi.orochi_stripes f LEFT JOIN orochi._stripe_bounds(NULL) b ON b.stripe_id = f.stripe_id
    UNION ALL
    SELECT 'views', json_agg(json_build_array(n.nspname, c.relname,
            CASE WHEN NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass
                    AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (held))
                THEN orochi._printed(c.oid) END,
            (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            orochi._text_key('pg_rewrite'::regclass, r.oid, r.ev_action::text)))
        FROM orochi._dependent_views() v JOIN pg_class c ON c.oid = v.view_oid
        JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
        JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'aggregates', json_agg(json_build_object('id', a.aggregate_id, 'view_oid', v.oid::bigint,
            'view', json_build_array(vn.nspname, v.relname), 'query', json_build_array(qn.nspname, q.relname),
            'table', a.table_oid::bigint, 'materialization', a.materialization_oid::bigint,
            'materialized_only', a.materialized_only, 'bucket', a.bucket) ORDER BY a.aggregate_id)
        FROM orochi.orochi_continuous_aggregates a
        JOIN pg_class v ON v.oid = a.view_oid JOIN pg_namespace vn ON vn.oid = v.relnamespace
        JOIN pg_class q ON q.oid = a.query_oid JOIN pg_namespace qn ON qn.oid = q.relnamespace
    UNION ALL
    SELECT 'shadows', json_agg(json_build_array(n.nspname, c.relname))
        FROM (SELECT DISTINCT name FROM orochi._relation_names() AS name) known
        JOIN pg_class c ON c.relname = known.name
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relpersistence <> 't' AND NOT orochi._is_internal_schema(n.nspname)
            AND NOT EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = c.oid)
            AND NOT EXISTS (SELECT FROM orochi._dependent_views() v WHERE v.view_oid = c.oid);
END
$$;

-- What is not as it was in a snapshot for which the changes `known` had been made: no row if a whole one is needed, else
-- versions, changes, and of the shards that the other changes are about all that `_snapshot` has of shards.
-- A change that is gone was folded, or was the reader's own and is rolled back. Where DDL moves no version
-- (without event triggers), only a whole snapshot finds it.
CREATE OR REPLACE FUNCTION orochi._snapshot_since(known bigint[]) RETURNS TABLE (kind text, data json)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
DECLARE
    changed record;
    touched bigint[];
BEGIN
    SELECT count(*) FILTER (WHERE change_id = ANY (known)) AS known,
        coalesce(bool_and(is_layout AND shards IS NOT NULL) FILTER (WHERE NOT change_id = ANY (known)), true) AS told
        INTO changed FROM orochi.orochi_catalog_changes;
    IF changed.known < cardinality(known) OR NOT changed.told OR (SELECT count(*) < 2 FROM pg_event_trigger
            WHERE evtname IN ('orochi_on_ddl', 'orochi_on_drop') AND evtenabled IN ('O', 'A'))
    THEN
        RETURN;
    END IF;
    touched := ARRAY(SELECT DISTINCT unnest(shards) FROM orochi.orochi_catalog_changes WHERE NOT change_id = ANY (known));
    RETURN QUERY
    SELECT 'version', to_json(version) FROM orochi.orochi_catalog_version
    UNION ALL
    SELECT 'changes', json_agg(change_id) FROM orochi.orochi_catalog_changes
    UNION ALL
    SELECT 'shards', json_agg(json_build_array(s.shard_id, s.table_oid::bigint, s.shard_index, s.hash_min,
            s.hash_max, s.layout, p.node_ids, s.row_count, s.size_bytes) ORDER BY s.table_oid, s.shard_index)
        FROM orochi.orochi_shards s
        JOIN LATERAL (SELECT json_agg(node_id ORDER BY ordinal, node_id) AS node_ids
              FROM orochi.orochi_shard_placements o WHERE o.state = 'active' AND o.shard_id = s.shard_id) p
            ON p.node_ids IS NOT NULL
        WHERE s.shard_id = ANY (touched)
    UNION ALL
    SELECT 'chunks', json_agg(json_build_array(chunk_id, shard_id, range_start, range_end, generation, tier)
            ORDER BY shard_id, range_start)
        FROM orochi.orochi_chunks WHERE shard_id = ANY (touched)
    UNION ALL
    SELECT 'stripes', json_agg(json_build_array(f.stripe_id, f.chunk_id, f.path, f.row_count, f.size_bytes, f.time_min,
            f.time_max, b.bounds) ORDER BY f.chunk_id, f.stripe_id)
        FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id)
        LEFT JOIN orochi._stripe_bounds(touched) b ON b.stripe_id = f.stripe_id WHERE c.shard_id = ANY (touched);
END
$$;
