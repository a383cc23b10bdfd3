-- Separate from the rest: this needs a superuser. What is Orochi's own becomes part of the extension plpgsql,
-- which is everywhere: so pg_dump leaves it out, and a dump restores to a database that knows nothing of Orochi.
-- Nothing that a user's DROP ... CASCADE can reach is a member: it would reach the extension too.
DO $$
DECLARE
    schemas CONSTANT text[] := ARRAY['orochi', 'orochi_api', 'orochi_data', 'timescaledb_information'];
    item record;
BEGIN
    FOR item IN
        SELECT 'SCHEMA' AS kind, quote_ident(nspname) AS name FROM pg_namespace WHERE nspname = ANY (schemas)
        UNION ALL
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass::text
            FROM pg_class c WHERE c.relkind IN ('r', 'v', 'S') AND c.relname !~ '^stage_'
            AND (c.relnamespace::regnamespace::text = ANY (schemas)
                 OR c.relnamespace = 'pg_catalog'::regnamespace AND c.relname ~ '^citus_' AND c.oid >= 16384)
            AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'i')
        UNION ALL
        SELECT CASE p.prokind WHEN 'a' THEN 'AGGREGATE' WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
            p.oid::regprocedure::text
            FROM pg_proc p WHERE p.pronamespace::regnamespace::text = ANY (schemas)
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text FROM pg_type t
            WHERE t.typnamespace::regnamespace::text = ANY (schemas) AND t.typtype IN ('b', 'e', 'c', 'd') AND t.typelem = 0
            AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
        UNION ALL
        SELECT 'CAST', format('(%s AS %s)', k.castsource::regtype, k.casttarget::regtype) FROM pg_cast k
            WHERE EXISTS (SELECT FROM pg_type t WHERE t.oid IN (k.castsource, k.casttarget)
                          AND t.typnamespace::regnamespace::text = ANY (schemas))
        UNION ALL SELECT 'EVENT TRIGGER', quote_ident(evtname) FROM pg_event_trigger WHERE evtname ~ '^orochi_'
        UNION ALL SELECT 'SERVER', srvname FROM pg_foreign_server WHERE srvname = 'orochi_gateway'
        UNION ALL SELECT 'FOREIGN DATA WRAPPER', fdwname FROM pg_foreign_data_wrapper WHERE fdwname = 'orochi_gateway'
    LOOP
        EXECUTE format('ALTER EXTENSION plpgsql ADD %s %s', item.kind, item.name);
    END LOOP;
END $$;
