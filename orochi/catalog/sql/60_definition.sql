-- What it takes to create a table like a shell on another server: read by the gateway as JSON, with
-- every name qualified. In PL/pgSQL because it keeps plans for the life of a session.

-- Types that a table's columns need and that a bare server lacks, with the SQL that makes them;
-- the lower `depth` rows depend on the higher ones. Types of extensions name the extension instead.
CREATE OR REPLACE FUNCTION orochi._needed_types(relation oid)
RETURNS TABLE (depth integer, type_name text, schema_name text, extension text, definition text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE used AS (
        SELECT a.atttypid AS type_oid, 0 AS depth FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT part.type_oid, used.depth + 1 FROM used JOIN pg_type t ON t.oid = used.type_oid,
        LATERAL (
            SELECT t.typelem AS type_oid WHERE t.typelem <> 0 AND t.typcategory = 'A'
            UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
            UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
            UNION ALL SELECT a.atttypid FROM pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) part
        WHERE used.depth < 20
    )
    SELECT max(used.depth), format_type(t.oid, NULL), n.nspname::text, max(e.extname)::text,
        CASE t.typtype
            WHEN 'e' THEN format('CREATE TYPE %s AS ENUM (%s)', format_type(t.oid, NULL),
                (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                 FROM pg_enum WHERE enumtypid = t.oid))
            WHEN 'd' THEN format('CREATE DOMAIN %s AS %s', format_type(t.oid, NULL),
                    format_type(t.typbasetype, t.typtypmod))
                || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                || coalesce((SELECT string_agg(format(' CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)), ''
                        ORDER BY c.conname)
                    FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'), '')
            WHEN 'c' THEN format('CREATE TYPE %s AS (%s)', format_type(t.oid, NULL),
                (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                        ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
            WHEN 'r' THEN (SELECT format('CREATE TYPE %s AS RANGE (subtype = %s)', format_type(t.oid, NULL),
                format_type(r.rngsubtype, NULL)) FROM pg_range r WHERE r.rngtypid = t.oid)
        END
    FROM used JOIN pg_type t ON t.oid = used.type_oid JOIN pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
        AND d.refclassid = 'pg_extension'::regclass
    LEFT JOIN pg_extension e ON e.oid = d.refobjid
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
        AND (e.oid IS NOT NULL OR t.typtype IN ('e', 'd', 'c', 'r'))
    GROUP BY t.oid, n.nspname;
END
$$;

-- Extensions whose operator classes, functions or types the table's indexes and expressions use.
CREATE OR REPLACE FUNCTION orochi._needed_extensions(relation oid) RETURNS TABLE (extension text, schema_name text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH parts AS (
        SELECT 'pg_class'::regclass::oid AS classid, relation AS objid
        UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = relation
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = relation
        UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d WHERE d.adrelid = relation)
    SELECT e.extname::text, n.nspname::text
    FROM parts JOIN pg_depend used USING (classid, objid)
    JOIN pg_depend owned ON owned.classid = used.refclassid AND owned.objid = used.refobjid
        AND owned.deptype = 'e' AND owned.refclassid = 'pg_extension'::regclass
    JOIN pg_extension e ON e.oid = owned.refobjid
    JOIN pg_namespace n ON n.oid = e.extnamespace
    UNION
    SELECT t.extension, n.nspname::text FROM orochi._needed_types(relation) t
    JOIN pg_extension e ON e.extname = t.extension JOIN pg_namespace n ON n.oid = e.extnamespace;
END
$$;

CREATE OR REPLACE FUNCTION orochi._column_names(relation oid, attnums smallint[]) RETURNS json
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(json_agg(a.attname ORDER BY k.ordinality), '[]'::json)
    FROM unnest(attnums) WITH ORDINALITY k
    JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = k.k
$$;

CREATE OR REPLACE FUNCTION orochi._table_definition(relation oid) RETURNS json
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    RETURN (
    SELECT json_build_object(
        'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
        'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner),
        'owned', pg_has_role(current_user, c.relowner, 'USAGE'),
        'is_partition', c.relispartition,
        'inherits', EXISTS (SELECT FROM pg_inherits i JOIN pg_class o ON o.oid IN (i.inhrelid, i.inhparent) AND o.oid <> c.oid
            WHERE c.oid IN (i.inhrelid, i.inhparent) AND o.relname <> 'shell_' || c.oid),
        'has_policies', c.relrowsecurity,
        'options', coalesce(to_json(c.reloptions), '[]'::json),
        'catalog_kind', (SELECT t.kind FROM orochi.orochi_tables t WHERE t.table_oid = c.oid),
        'is_hypertable', EXISTS (SELECT FROM orochi.orochi_dimensions d WHERE d.table_oid = c.oid),
        'columns', (SELECT coalesce(json_agg(json_build_object(
                'name', a.attname, 'attnum', a.attnum, 'type', format_type(a.atttypid, a.atttypmod),
                'base_oid', CASE WHEN y.typtype = 'd' THEN orochi._base_type(y.oid) ELSE y.oid END::bigint, 'not_null', a.attnotnull,
                'collation', CASE WHEN a.attcollation <> y.typcollation THEN
                    (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                     FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                     WHERE co.oid = a.attcollation) END,
                'deterministic', coalesce((SELECT co.collisdeterministic FROM pg_collation co
                    WHERE co.oid = a.attcollation), true),
                -- a default has no columns, and then no lock of the table is needed to print it
                'default', pg_get_expr(e.adbin, CASE WHEN a.attgenerated = '' THEN 0 ELSE e.adrelid END),
                'volatility', CASE WHEN e.adbin IS NULL THEN 'i' ELSE orochi._volatility(e.adbin) END,
                'identity', a.attidentity, 'generated', a.attgenerated) ORDER BY a.attnum), '[]'::json)
            FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
            LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        'constraints', (SELECT coalesce(json_agg(json_build_object(
                'oid', k.oid::bigint, 'name', k.conname, 'type', k.contype, 'columns', orochi._column_names(c.oid, k.conkey),
                'definition', pg_get_constraintdef(k.oid), 'index', k.conindid::bigint,
                'references', nullif(k.confrelid, 0)::bigint,
                'referenced', (SELECT quote_ident(rn.nspname) || '.' || quote_ident(rc.relname)
                    FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace WHERE rc.oid = k.confrelid),
                'referenced_columns', orochi._column_names(k.confrelid, k.confkey))
                ORDER BY k.contype DESC, k.conname), '[]'::json)
            FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x', 'c', 'f')
                AND k.conparentid = 0),
        'indexes', (SELECT coalesce(json_agg(json_build_object(
                'oid', i.indexrelid::bigint, 'name', ic.relname, 'unique', i.indisunique, 'valid', i.indisvalid,
                'columns', orochi._column_names(c.oid, (i.indkey::smallint[])[0:i.indnkeyatts - 1]),
                'definition', substr(pg_get_indexdef(i.indexrelid), 1 + length(format('CREATE %sINDEX %I ON %I.%I ',
                    CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, ic.relname, n.nspname, c.relname))))
                ORDER BY ic.relname), '[]'::json)
            FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND NOT EXISTS (
                SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
                    AND k.conrelid = c.oid)),
        'referencing', (SELECT coalesce(json_agg(json_build_array(k.conname, k.conrelid::regclass::text)), '[]'::json)
            FROM pg_constraint k JOIN orochi.orochi_tables o ON o.table_oid = k.conrelid
            WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid),
        'is_referenced', EXISTS (SELECT FROM pg_constraint k
            WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid),
        'triggers', (SELECT coalesce(json_agg(t.tgname), '[]'::json) FROM pg_trigger t
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname <> 'orochi_guard'),
        'types', (SELECT coalesce(json_agg(json_build_array(t.schema_name, t.type_name, t.definition)
                ORDER BY t.depth DESC), '[]'::json)
            FROM orochi._needed_types(c.oid) t WHERE t.extension IS NULL),
        'extensions', (SELECT coalesce(json_agg(json_build_array(x.extension, x.schema_name)), '[]'::json)
            FROM orochi._needed_extensions(c.oid) x))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
END
$$;
