-- Continuous aggregates: where their parts lie, and what leaves with them.
-- Their schema, orochi_aggregates, is there while there are any: a dump of a database without them has none.

-- Takes an aggregate out of the catalog with all that it is made of; its triggers on nodes go later.
CREATE OR REPLACE FUNCTION orochi._forget_aggregate(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET client_min_messages = 'warning' AS $$
DECLARE
    gone record;
    part record;
BEGIN
    DELETE FROM orochi.orochi_continuous_aggregates WHERE aggregate_id = id
        RETURNING view_oid, query_oid, materialization_oid INTO gone;
    FOR part IN SELECT c.oid, c.relkind FROM pg_class c
        WHERE c.oid IN (gone.view_oid, gone.query_oid, gone.materialization_oid)
        ORDER BY c.oid <> gone.view_oid, c.oid <> gone.query_oid
    LOOP
        IF EXISTS (SELECT FROM pg_class WHERE oid = part.oid) THEN
            EXECUTE format('DROP %s %s CASCADE', CASE part.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                           part.oid::regclass);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM orochi.orochi_continuous_aggregates) THEN
        BEGIN
            DROP SCHEMA IF EXISTS orochi_aggregates;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;  -- somebody else's
        END;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION orochi._forget_aggregate(bigint) FROM PUBLIC;

-- What an aggregate is made of belongs to whom its view does.
CREATE OR REPLACE FUNCTION orochi._follow_owner(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT c.oid::regclass AS name, c.relkind, pg_get_userbyid(v.relowner) AS owner
        FROM orochi.orochi_continuous_aggregates a JOIN pg_class v ON v.oid = a.view_oid
        JOIN pg_class c ON c.oid IN (a.query_oid, a.materialization_oid)
        WHERE a.aggregate_id = id AND c.relowner <> v.relowner
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', CASE part.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                       part.name, part.owner);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION orochi._follow_owner(bigint) FROM PUBLIC;

-- A relation that an aggregate's query reads and its owner may not; whoever refreshes has no more rights than that.
CREATE OR REPLACE FUNCTION orochi._unreadable(id bigint) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT format('%s %s', CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END, c.relname)
    FROM orochi.orochi_continuous_aggregates a
    JOIN pg_class q ON q.oid = a.query_oid
    JOIN pg_rewrite r ON r.ev_class = q.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.refobjid AND c.oid <> q.oid
    WHERE a.aggregate_id = id AND NOT has_table_privilege(q.relowner, c.oid, 'SELECT')
        AND NOT CASE WHEN d.refobjsubid > 0 THEN has_column_privilege(q.relowner, c.oid, d.refobjsubid::smallint, 'SELECT')
                     ELSE has_any_column_privilege(q.relowner, c.oid, 'SELECT') END
    ORDER BY 1 LIMIT 1
$$;

-- Whether a bucket is answered as it was materialised because drop_chunks() took its rows away.
CREATE OR REPLACE FUNCTION orochi._is_history(aggregate bigint, bucket bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT EXISTS (SELECT FROM orochi.orochi_invalidation_log i WHERE i.aggregate_id = aggregate
            AND i.reason = 'dropped' AND bucket BETWEEN i.lowest AND i.greatest)
        AND NOT EXISTS (SELECT FROM orochi.orochi_invalidation_log i WHERE i.aggregate_id = aggregate
            AND i.reason = 'new' AND bucket BETWEEN i.lowest AND i.greatest)
$$;

-- The functions of a query, stored as the rule of a view, whose results depend on more than their arguments.
CREATE OR REPLACE FUNCTION orochi._unsteady_parts(view oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT p.oid::regprocedure::text FROM pg_rewrite r,
        regexp_matches(r.ev_action::text, ':(?:func|opfunc|aggfno|winfno)id (\d+)', 'g') AS part(parts)
        JOIN pg_proc p ON p.oid = parts[1]::oid
    WHERE r.ev_class = view AND p.provolatile <> 'i' AND NOT (p.proname = 'time_bucket'
        AND p.pronamespace::regnamespace::text IN ('orochi', 'orochi_api'))
    UNION ALL
    SELECT CASE part.parts[1] WHEN 'COERCEVIAIO' THEN 'a cast to or from text' ELSE 'the current time or user' END
    FROM pg_rewrite r, regexp_matches(r.ev_action::text, '\{(SQLVALUEFUNCTION|COERCEVIAIO|NEXTVALUEEXPR)\M', 'g') AS part(parts)
    WHERE r.ev_class = view
$$;
