-- Views whose definition reads an Orochi table, directly or through other views.
CREATE OR REPLACE FUNCTION orochi._dependent_views() RETURNS TABLE (view_oid oid)
LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH RECURSIVE readers AS (
        SELECT t.table_oid AS relation FROM orochi.orochi_tables t
        UNION
        SELECT r.ev_class FROM readers
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = readers.relation
            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
    )
    SELECT c.oid FROM readers JOIN pg_class c ON c.oid = readers.relation WHERE c.relkind = 'v'
$$;
