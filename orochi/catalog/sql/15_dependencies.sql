-- Relations whose definition reads an Orochi table, directly or through views; the tables too.
CREATE OR REPLACE FUNCTION orochi._readers() RETURNS TABLE (reader oid)
LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH RECURSIVE readers AS (
        SELECT t.table_oid AS relation FROM orochi.orochi_tables t
        UNION
        SELECT r.ev_class FROM readers
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = readers.relation
            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
    )
    SELECT relation FROM readers
$$;

-- The views among them.
CREATE OR REPLACE FUNCTION orochi._dependent_views() RETURNS TABLE (view_oid oid)
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT c.oid FROM orochi._readers() r JOIN pg_class c ON c.oid = r.reader WHERE c.relkind = 'v'
$$;

-- Bare names of Orochi tables and of the views over them: another relation of such a name may hide them.
CREATE OR REPLACE FUNCTION orochi._relation_names() RETURNS SETOF name
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT c.relname FROM pg_class c WHERE c.oid IN (SELECT table_oid FROM orochi.orochi_tables)
    UNION ALL
    SELECT c.relname FROM pg_class c WHERE c.oid IN (SELECT view_oid FROM orochi._dependent_views())
$$;

-- Schemas of shards and chunks, of a node that shares this database, and that of the shells' children.
CREATE OR REPLACE FUNCTION orochi._is_internal_schema(schema text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = '' AS
$$ SELECT schema ~ '^orochi_[sc]\d+_\d+$|^pg_orochi$' $$;

-- Why PostgreSQL itself cannot read a view over Orochi tables as it is defined; NULL if it can. Behind a shell
-- stands a child (loopback.sql), which ONLY leaves out, TABLESAMPLE ignores, and system columns tell of.
CREATE OR REPLACE FUNCTION orochi._not_through_shells(view oid) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH RECURSIVE below AS (
        SELECT view AS relation
        UNION
        SELECT d.refobjid FROM below JOIN pg_rewrite r ON r.ev_class = below.relation
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> below.relation
    )
    SELECT CASE
        WHEN EXISTS (SELECT FROM below JOIN orochi.orochi_tables t ON t.table_oid = relation
            WHERE to_regclass('pg_orochi.shell_' || relation) IS NULL)
        THEN 'the coordinator does not have postgres_fdw'
        WHEN EXISTS (SELECT FROM below JOIN pg_class c ON c.oid = relation WHERE c.relkind IN ('v', 'm')
            AND pg_get_viewdef(c.oid) ~ '\m(ONLY|TABLESAMPLE|tableoid|ctid|xmin|xmax|cmin|cmax)\M')
        THEN 'it has ONLY, TABLESAMPLE or system columns'
    END
$$;

-- Whether a policy of the table has what PostgreSQL would compute otherwise over a shell's child.
CREATE OR REPLACE FUNCTION orochi._policies_not_through_shells(shell oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = shell
        AND concat(pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid))
            ~ '\m(ONLY|TABLESAMPLE|tableoid|ctid|xmin|xmax|cmin|cmax)\M')
$$;

-- Names of relations that a function's body reads by ONLY or COPY TO: of a shell that is nothing.
CREATE OR REPLACE FUNCTION orochi._relations_past_children(body text) RETURNS SETOF text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
    SELECT DISTINCT CASE WHEN found[1] LIKE '"%' THEN replace(substr(found[1], 2, length(found[1]) - 2), '""', '"')
        ELSE lower(found[1]) END
    FROM regexp_matches(body, '\mONLY\s*\(?\s*(?:(?:"[^"]+"|\w+)\s*\.\s*)?("[^"]+"|\w+)', 'gi') AS found
    UNION
    SELECT CASE WHEN found[1] LIKE '"%' THEN replace(substr(found[1], 2, length(found[1]) - 2), '""', '"')
        ELSE lower(found[1]) END
    FROM regexp_matches(body, '\mCOPY\s+(?:(?:"[^"]+"|\w+)\s*\.\s*)?("[^"]+"|\w+)\s*(?:\([^)]*\)\s*)?TO\M', 'gi') AS found
$$;

CREATE OR REPLACE FUNCTION orochi._relations_past_children(made oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT n FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang,
        orochi._relations_past_children(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)) AS n
    WHERE p.oid = made AND l.lanname IN ('sql', 'plpgsql')
$$;

-- What of a table about to become a shell would not work there any more; NULL for nothing.
CREATE OR REPLACE FUNCTION orochi._unfit_for_shell(shell oid) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT CASE
        WHEN orochi._policies_not_through_shells(shell)
        THEN 'a policy of it has ONLY, TABLESAMPLE or system columns'
        WHEN EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = shell)
        THEN (SELECT format('it has the rule "%s"', min(r.rulename)) FROM pg_rewrite r WHERE r.ev_class = shell)
        ELSE (SELECT format('function %s has ONLY or COPY TO of it in its body', min(p.oid::regprocedure::text))
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'orochi')
                AND coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) ~* '\m(ONLY|COPY)\M'
                AND (SELECT c.relname FROM pg_class c WHERE c.oid = shell)
                    IN (SELECT orochi._relations_past_children(p.oid))
            HAVING count(*) > 0)
    END
$$;
