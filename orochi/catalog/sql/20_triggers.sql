-- The catalog's version moves with every change that a plan can depend on, and with no other:
-- row counts, sizes and heartbeats are not among them.

CREATE OR REPLACE FUNCTION orochi._catalog_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM orochi._bump();
    RETURN NULL;
END $$;

-- Changes of layouts tell which shards they are about (see `_snapshot_since`): gateways read no others again.
CREATE OR REPLACE FUNCTION orochi._layouts_emptied() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM orochi._bump_layout();
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION orochi._chunks_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    found bigint[];
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN SELECT array_agg(DISTINCT m.shard_id) INTO found FROM made m;
        WHEN 'DELETE' THEN SELECT array_agg(DISTINCT g.shard_id) INTO found FROM gone g;
        ELSE SELECT array_agg(DISTINCT v.shard_id) INTO found
            FROM (SELECT chunk_id, shard_id, range_start, range_end, generation, tier FROM gone) g
            FULL JOIN (SELECT chunk_id, shard_id, range_start, range_end, generation, tier FROM made) m USING (chunk_id)
            CROSS JOIN LATERAL (VALUES (g.shard_id), (m.shard_id)) AS v(shard_id)
            WHERE v.shard_id IS NOT NULL
                AND (g.shard_id, g.range_start, g.range_end, g.generation, g.tier)
                    IS DISTINCT FROM (m.shard_id, m.range_start, m.range_end, m.generation, m.tier);
    END CASE;
    IF found IS NOT NULL THEN
        PERFORM orochi._bump_layout(found);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION orochi._shards_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    found bigint[];
BEGIN
    SELECT array_agg(m.shard_id) INTO found FROM gone g JOIN made m USING (shard_id) WHERE g.layout <> m.layout;
    IF found IS NOT NULL THEN
        PERFORM orochi._bump_layout(found);
    END IF;
    RETURN NULL;
END $$;

-- A stripe goes with its chunk or alone. Where its chunk is not seen (it has gone, which tells of the shard itself, or
-- is newer than the transaction's snapshot), any shard may be meant.
CREATE OR REPLACE FUNCTION orochi._stripes_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    touched bigint[];
    found bigint[];
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN touched := ARRAY(SELECT DISTINCT m.chunk_id FROM made m);
        WHEN 'DELETE' THEN touched := ARRAY(SELECT DISTINCT g.chunk_id FROM gone g);
        ELSE touched := ARRAY(SELECT g.chunk_id FROM gone g UNION SELECT m.chunk_id FROM made m);
    END CASE;
    IF touched <> '{}' THEN
        SELECT CASE WHEN count(c.chunk_id) = cardinality(touched) THEN array_agg(DISTINCT c.shard_id) END INTO found
            FROM orochi.orochi_chunks c WHERE c.chunk_id = ANY (touched);
        PERFORM orochi._bump_layout(found);
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM (VALUES
        ('orochi_tables', NULL),
        ('orochi_dimensions', NULL),
        ('orochi_shards', 'table_oid, shard_index, hash_min, hash_max'),
        ('orochi_shard_placements', NULL),
        ('orochi_nodes', 'hostname, port, dbname, role, state, holds_shards'),
        ('orochi_continuous_aggregates', NULL)) AS watched(name, columns)
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_catalog_changed AFTER INSERT OR DELETE OR TRUNCATE ON orochi.%I
            FOR EACH STATEMENT EXECUTE FUNCTION orochi._catalog_changed()', item.name);
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_catalog_updated AFTER UPDATE %s ON orochi.%I
            FOR EACH STATEMENT EXECUTE FUNCTION orochi._catalog_changed()', 'OF ' || item.columns, item.name);
    END LOOP;
    FOR item IN SELECT * FROM (VALUES
        ('orochi_chunks', '_chunks_changed'), ('orochi_stripes', '_stripes_changed')) AS watched(name, function)
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS orochi_catalog_changed ON orochi.%I', item.name);
        EXECUTE format('DROP TRIGGER IF EXISTS orochi_catalog_updated ON orochi.%I', item.name);
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_layout_made AFTER INSERT ON orochi.%I
            REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION orochi.%I()', item.name, item.function);
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_layout_gone AFTER DELETE ON orochi.%I
            REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION orochi.%I()', item.name, item.function);
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_layout_updated AFTER UPDATE ON orochi.%I
            REFERENCING OLD TABLE AS gone NEW TABLE AS made
            FOR EACH STATEMENT EXECUTE FUNCTION orochi.%I()', item.name, item.function);
        EXECUTE format('CREATE OR REPLACE TRIGGER orochi_layout_emptied AFTER TRUNCATE ON orochi.%I
            FOR EACH STATEMENT EXECUTE FUNCTION orochi._layouts_emptied()', item.name);
    END LOOP;
    CREATE OR REPLACE TRIGGER orochi_layout_updated AFTER UPDATE ON orochi.orochi_shards
        REFERENCING OLD TABLE AS gone NEW TABLE AS made
        FOR EACH STATEMENT EXECUTE FUNCTION orochi._shards_changed();
END $$;

-- A chunk whose last stripe goes has its rows in the heap: it is hot, however that came.
CREATE OR REPLACE FUNCTION orochi._stripes_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    UPDATE orochi.orochi_chunks c SET tier = 'hot'
        WHERE c.tier <> 'hot' AND c.chunk_id IN (SELECT g.chunk_id FROM gone g)
            AND NOT EXISTS (SELECT FROM orochi.orochi_stripes s WHERE s.chunk_id = c.chunk_id);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER orochi_stripes_deleted AFTER DELETE ON orochi.orochi_stripes
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION orochi._stripes_deleted();

-- Where shells have no way back to the gateway (see loopback.sql), writes that bypass it are refused: they must
-- not put rows where nobody reads them.
CREATE OR REPLACE FUNCTION orochi._refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot write into "%" past the Orochi gateway', TG_TABLE_NAME
        USING ERRCODE = '0A000',
              DETAIL = format('"%s" is an Orochi table: its rows are on the cluster''s nodes, not in this database.',
                              TG_TABLE_NAME),
              HINT = 'Connect to the Orochi gateway and run the statement there.';
END $$;

CREATE OR REPLACE FUNCTION orochi._detach_shell(shell oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS orochi_guard ON %s', shell::regclass);
END $$;

CREATE OR REPLACE FUNCTION orochi._attach_shell(shell oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER orochi_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
        FOR EACH STATEMENT EXECUTE FUNCTION orochi._refuse_write()', shell::regclass);
END $$;

CREATE OR REPLACE FUNCTION orochi._follow_shells() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$ SELECT $$;

REVOKE ALL ON FUNCTION orochi._attach_shell(oid), orochi._detach_shell(oid), orochi._follow_shells() FROM PUBLIC;

-- Dropped shells leave the catalog, whoever dropped them and however.
CREATE OR REPLACE FUNCTION orochi._on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    item record;
    shell oid;
    changed boolean := false;
BEGIN
    FOR item IN SELECT a.aggregate_id FROM pg_event_trigger_dropped_objects() d
        JOIN orochi.orochi_continuous_aggregates a ON d.objid IN (a.view_oid, a.query_oid, a.materialization_oid)
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        PERFORM orochi._forget_aggregate(item.aggregate_id);
    END LOOP;
    FOR item IN SELECT d.objid, d.object_type, d.original, d.object_name, d.address_names
        FROM pg_event_trigger_dropped_objects() d
        WHERE (NOT d.is_temporary OR d.object_type = 'view')
          -- shards of a node that shares this database: a NOTIFY would keep their transaction from preparing
          AND NOT orochi._is_internal_schema(coalesce(d.schema_name, d.object_name, ''))
          AND (d.object_type IN ('table', 'table column', 'view', 'table constraint', 'default value', 'index',
                                 'schema')
               OR d.object_type IN ('materialized view', 'foreign table', 'sequence', 'composite type', 'type')
                  AND d.object_name IN (SELECT orochi._relation_names()))
    LOOP
        IF item.object_type = 'table' THEN
            IF EXISTS (SELECT FROM orochi.orochi_tables WHERE table_oid = item.objid) THEN
                PERFORM orochi._forget_table(item.objid);
            ELSE
                changed := changed OR item.object_name IN (SELECT orochi._relation_names());
            END IF;
        ELSIF item.object_type IN ('table constraint', 'default value') THEN
            SELECT t.table_oid INTO shell FROM orochi.orochi_tables t JOIN pg_class c ON c.oid = t.table_oid
                JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE ARRAY[n.nspname, c.relname]::text[] = item.address_names[1:2];
            IF shell IS NOT NULL AND item.original AND current_setting('orochi.follows', true) IS DISTINCT FROM 'on' THEN
                PERFORM orochi._refuse_ddl('ALTER TABLE', shell);
            END IF;
            changed := changed OR shell IS NOT NULL;
        ELSIF item.object_type = 'table column' THEN
            changed := changed OR EXISTS (SELECT FROM orochi.orochi_tables WHERE table_oid = item.objid);
        ELSE
            -- a schema on a search path, a view over a table, a relation that hid one, an index
            changed := changed OR item.object_type <> 'index' OR item.original;
        END IF;
    END LOOP;
    IF changed AND EXISTS (SELECT FROM orochi.orochi_tables) THEN
        PERFORM orochi._bump();
    END IF;
END $$;

-- What would not do on an Orochi table what it does on others is not made, through the gateway or past it.
CREATE OR REPLACE FUNCTION orochi._check_created(tag text, made oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    past text;
BEGIN
    IF tag = 'CREATE TRIGGER' AND EXISTS (SELECT FROM pg_trigger g JOIN orochi.orochi_tables t ON t.table_oid = g.tgrelid
            WHERE g.oid = made AND g.tgname NOT IN ('orochi_guard', 'OROCHI_insert', 'OROCHI_remove', 'orochi_send'))
    THEN
        RAISE EXCEPTION 'triggers on Orochi tables are not supported' USING ERRCODE = '0A000',
            HINT = 'Triggers do not run on shards. Use an INSTEAD OF INSERT trigger on a view, or statements of your own.';
    ELSIF tag = 'CREATE RULE' AND EXISTS (SELECT FROM pg_rewrite r JOIN orochi.orochi_tables t ON t.table_oid = r.ev_class
            WHERE r.oid = made)
    THEN
        RAISE EXCEPTION 'rules on Orochi tables are not supported'
            USING ERRCODE = '0A000', HINT = 'Use a view, or rewrite the query.';
    ELSIF tag = 'CREATE CAST' AND EXISTS (SELECT FROM pg_cast k JOIN pg_type y ON y.oid IN (k.castsource, k.casttarget)
            JOIN orochi.orochi_tables t ON t.table_oid = y.typrelid WHERE k.oid = made)
    THEN
        RAISE EXCEPTION 'casts of rows of Orochi tables are not supported'
            USING ERRCODE = '0A000', HINT = 'Call the function.';
    ELSIF tag IN ('CREATE FUNCTION', 'CREATE PROCEDURE') THEN
        SELECT n INTO past FROM orochi._relations_past_children(made) AS n
            WHERE n IN (SELECT c.relname FROM pg_class c JOIN orochi.orochi_tables t ON t.table_oid = c.oid) LIMIT 1;
        IF past IS NOT NULL THEN
            RAISE EXCEPTION 'a function body with ONLY or COPY TO of the Orochi table "%" is not supported', past
                USING ERRCODE = '0A000', HINT = 'Leave out ONLY, and copy (SELECT * FROM it).';
        END IF;
    END IF;
END $$;

-- Shards follow what the gateway runs on their shell, and nobody else: not DDL in bodies, nor past the gateway. Owner and
-- row-level security are the shell's alone. What is newer than the transaction is what it has made.
CREATE OR REPLACE FUNCTION orochi._check_followed(tag text, changed oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    shell oid;
    since integer := age(pg_current_xact_id()::xid);
BEGIN
    IF tag NOT IN ('ALTER TABLE', 'CREATE INDEX', 'ALTER INDEX') OR current_setting('orochi.follows', true) = 'on' THEN
        RETURN;
    END IF;
    SELECT t.table_oid INTO shell FROM orochi.orochi_tables t
        WHERE t.table_oid = changed OR t.table_oid = (SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = changed);
    IF shell IS NOT NULL AND (shell <> changed
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = shell AND a.attnum > 0 AND age(a.xmin) <= since)
        OR EXISTS (SELECT FROM pg_attrdef d WHERE d.adrelid = shell AND age(d.xmin) <= since)
        OR EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = shell AND age(c.xmin) <= since)
        OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = shell AND age(i.xmin) <= since)
        OR EXISTS (SELECT FROM pg_type y WHERE y.typrelid = shell AND age(y.xmin) <= since))
    THEN
        PERFORM orochi._refuse_ddl(tag, shell);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION orochi._refuse_ddl(tag text, shell oid) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION '% of the Orochi table "%" is not supported inside a function, a DO block or past the gateway',
            tag, (SELECT c.relname FROM pg_class c WHERE c.oid = shell)
        USING ERRCODE = '0A000', HINT = 'Send it to the gateway as a statement of its own.';
END $$;

-- Shells and the views over them may change in ways that plans depend on, and so may what their names
-- mean: a relation of the same name, or a schema, may come before them on a search path.
CREATE OR REPLACE FUNCTION orochi._on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    item record;
    changed boolean := false;
BEGIN
    IF NOT EXISTS (SELECT FROM orochi.orochi_tables) THEN
        RETURN;
    END IF;
    FOR item IN SELECT c.classid, c.objid, c.command_tag, c.object_type, c.schema_name,
            CASE c.classid WHEN 'pg_class'::regclass THEN r.relname
                WHEN 'pg_type'::regclass THEN t.typname END AS relation
        FROM pg_event_trigger_ddl_commands() c
        LEFT JOIN pg_class r ON c.classid = 'pg_class'::regclass AND r.oid = c.objid
        LEFT JOIN pg_type t ON c.classid = 'pg_type'::regclass AND t.oid = c.objid
        WHERE NOT orochi._is_internal_schema(coalesce(c.schema_name, c.object_identity))
    LOOP
        IF item.schema_name = 'pg_temp' AND item.object_type <> 'view' THEN
            -- The gateway looks for temporary relations after statements that say that they make one.
            IF item.command_tag ~ '^(CREATE|SELECT INTO)' AND item.relation !~ '^orochi_'
               AND current_query() !~* '(^|;)\s*(create|do|call)\M|\mcreate\s.{0,80}\mtemp|\minto\s+(local\s+|global\s+)?"?(pg_)?temp'
               AND item.relation IN (SELECT orochi._relation_names())
            THEN
                RAISE EXCEPTION 'temporary relation "%" would hide an Orochi table', item.relation
                    USING ERRCODE = '0A000', HINT = 'Create it by a statement of its own, or give it another name.';
            END IF;
        ELSE
            IF item.command_tag IN ('CREATE MATERIALIZED VIEW', 'REFRESH MATERIALIZED VIEW')
               AND item.objid IN (SELECT reader FROM orochi._readers())
               AND orochi._not_through_shells(item.objid) IS NOT NULL
            THEN
                RAISE EXCEPTION 'materialized view "%" over Orochi tables is not supported: %',
                        item.relation, orochi._not_through_shells(item.objid)
                    USING ERRCODE = '0A000', HINT = 'Use CREATE TABLE AS through the gateway, or a view.';
            END IF;
            PERFORM orochi._check_created(item.command_tag, item.objid);
            PERFORM orochi._check_followed(item.command_tag, item.objid);
            IF item.command_tag IN ('CREATE POLICY', 'ALTER POLICY') AND EXISTS (SELECT FROM pg_policy p
                    JOIN orochi.orochi_tables t ON t.table_oid = p.polrelid
                    WHERE p.oid = item.objid AND orochi._policies_not_through_shells(p.polrelid))
            THEN
                RAISE EXCEPTION 'policies with ONLY, TABLESAMPLE or system columns on Orochi tables are not supported'
                    USING ERRCODE = '0A000', HINT = 'Write the condition without them.';
            END IF;
            IF item.command_tag = 'ALTER TABLE' AND EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = item.objid)
            THEN  -- for which roles its row security is active is part of what gateways remember
                IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = item.objid)
                   AND to_regnamespace('pg_orochi') IS NULL
                THEN
                    RAISE EXCEPTION 'row-level security on Orochi tables needs postgres_fdw on the coordinator'
                        USING ERRCODE = '0A000', HINT = 'Grant on views that filter the rows.';
                END IF;
                PERFORM pg_notify('orochi_catalog', 'rights');
            END IF;
            changed := changed
                OR item.command_tag ~ '^ALTER' OR item.object_type IN ('view', 'schema')
                OR EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = item.objid)
                OR item.object_type = 'index'
                    AND EXISTS (SELECT FROM pg_index i JOIN orochi.orochi_tables t ON t.table_oid = i.indrelid
                                WHERE i.indexrelid = item.objid)
                OR item.relation IN (SELECT orochi._relation_names());
        END IF;
    END LOOP;
    IF changed THEN
        PERFORM orochi._follow_shells();
        PERFORM orochi._bump();
    END IF;
END $$;

-- Gateways remember for a moment what a role may do: they hear of GRANT and REVOKE at once.
CREATE OR REPLACE FUNCTION orochi._on_rights() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM pg_notify('orochi_catalog', 'rights');
END $$;
