-- Separate from the rest: these need a superuser, and the library of postgres_fdw on the server.
-- Each shell gets a child, a foreign table that leads back to the gateway: what PostgreSQL itself runs on
-- the shell (bodies of functions, triggers, direct connections) reads and changes the rows on the nodes.
-- The schema's name begins with pg_, so that pg_dump leaves out what is in it.
SET LOCAL allow_system_table_mods = on;
CREATE SCHEMA IF NOT EXISTS pg_orochi;
SET LOCAL allow_system_table_mods = off;

CREATE OR REPLACE FUNCTION pg_orochi.handler() RETURNS fdw_handler
LANGUAGE c STRICT AS '$libdir/postgres_fdw', 'postgres_fdw_handler';
CREATE OR REPLACE FUNCTION pg_orochi.validator(text[], oid) RETURNS void
LANGUAGE c STRICT AS '$libdir/postgres_fdw', 'postgres_fdw_validator';

-- Where the gateway listens, as this server reaches it. A gateway says so when it starts.
CREATE OR REPLACE FUNCTION orochi._gateway_at(host text, port integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    wanted text[] := ARRAY['host=' || host, 'port=' || port];
    secret text;
BEGIN
    SELECT encode(sha256(convert_to(s.secret || ':loopback', 'UTF8')), 'hex') INTO STRICT secret
        FROM orochi.orochi_secret s;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper WHERE fdwname = 'orochi_gateway') THEN
        CREATE FOREIGN DATA WRAPPER orochi_gateway HANDLER pg_orochi.handler VALIDATOR pg_orochi.validator;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server WHERE srvname = 'orochi_gateway') THEN
        EXECUTE format('CREATE SERVER orochi_gateway FOREIGN DATA WRAPPER orochi_gateway OPTIONS (
            host %L, port %L, dbname %L, application_name ''orochi loopback %%p'', connect_timeout ''10'',
            fetch_size ''1000'', batch_size ''200'', analyze_sampling ''off'')',
            host, port, pg_catalog.current_database());
        EXECUTE format('CREATE USER MAPPING FOR PUBLIC SERVER orochi_gateway OPTIONS (
            user ''orochi_loopback'', password %L)', secret);
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server
                      WHERE srvname = 'orochi_gateway' AND srvoptions @> wanted) THEN
        EXECUTE format('ALTER SERVER orochi_gateway OPTIONS (SET host %L, SET port %L)', host, port);
    END IF;
END $$;
REVOKE ALL ON FUNCTION orochi._gateway_at(text, integer) FROM PUBLIC;
SELECT orochi._gateway_at('127.0.0.1', 6432)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server WHERE srvname = 'orochi_gateway');

-- Rows that PostgreSQL put into a shell go on to the nodes. They are there as long as the statement runs, so
-- that its count, RETURNING, defaults and checks are PostgreSQL's own; nobody else ever sees them.
CREATE OR REPLACE FUNCTION orochi._remove_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    EXECUTE format('DELETE FROM ONLY %s WHERE ctid = $1', TG_RELID::regclass) USING NEW.ctid;
    RETURN NULL;
END $$;

-- What the statement that a trigger of a shell runs for, told by the trigger's PG_CONTEXT, does about conflicts: 'none' if
-- it says nothing of them, 'nothing' for DO NOTHING on the shell's only unique key or any, else 'other'.
CREATE OR REPLACE FUNCTION orochi._on_conflict(context text, shell oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    said text := regexp_replace(CASE WHEN strpos(context, E'\n') > 0 THEN substr(context, strpos(context, E'\n') + 1) ELSE '' END,
        E'\n(PL/pgSQL function |SQL function "|SQL statement ").*$', '');
BEGIN
    IF said = '' THEN
        said := current_query();
    ELSIF said LIKE 'SQL function "%' THEN
        SELECT string_agg(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), ' ') INTO said FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_language l ON l.oid = p.prolang
            WHERE p.proname = substring(said FROM '^SQL function "(.*)" ') AND l.lanname = 'sql';
    ELSIF said NOT LIKE 'SQL statement "%' AND said NOT LIKE 'SQL expression "%' THEN
        RETURN 'none';  -- COPY: what follows is data
    END IF;
    IF said !~* '\mconflict\M' THEN
        RETURN 'none';
    END IF;
    said := regexp_replace(said, $re$'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/$re$, ' ', 'g');
    IF said !~* '\mon\s+conflict\M' THEN
        RETURN 'none';
    ELSIF (SELECT count(*) FROM regexp_matches(said, '\minsert\s+into\M', 'gi')) = 1
        AND (said ~* '\mon\s+conflict\s+do\s+nothing\M' OR said ~* '\mon\s+conflict\s*(\(.*\)|on\s+constraint\s+\S+)\s*do\s+nothing\M'
            AND (SELECT count(*) FROM pg_catalog.pg_index WHERE indrelid = shell AND indisunique) = 1)
    THEN
        RETURN 'nothing';
    END IF;
    RETURN 'other';
END $$;

-- A row of INSERT ... ON CONFLICT DO NOTHING goes to the nodes at once, for they know whether it is one.
CREATE OR REPLACE FUNCTION orochi._insert_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    context text;
    columns text;
    sent bigint;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF orochi._on_conflict(context, TG_RELID) <> 'nothing' THEN
        RETURN NEW;
    END IF;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_catalog.pg_attribute
        WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    EXECUTE format('INSERT INTO pg_orochi.%I (%s) SELECT %2$s FROM (SELECT ($1).*) AS r ON CONFLICT DO NOTHING',
        'shell_' || TG_RELID, columns) USING NEW;
    GET DIAGNOSTICS sent = ROW_COUNT;
    IF sent = 0 THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION orochi._send_rows() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    columns text;
    context text;
BEGIN
    IF NOT EXISTS (SELECT FROM orochi_new) THEN
        RETURN NULL;
    END IF;
    GET DIAGNOSTICS context = PG_CONTEXT;
    CASE orochi._on_conflict(context, TG_RELID)
        WHEN 'nothing' THEN
            RETURN NULL;  -- they are there
        WHEN 'other' THEN
            RAISE EXCEPTION 'this form of INSERT ... ON CONFLICT into the Orochi table "%" is not supported inside a function', TG_TABLE_NAME
                USING ERRCODE = '0A000', HINT = 'Send it through the gateway as a statement of its own, or catch unique_violation.';
        ELSE
    END CASE;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_catalog.pg_attribute
        WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    EXECUTE format('INSERT INTO pg_orochi.%I (%s) SELECT %2$s FROM orochi_new', 'shell_' || TG_RELID, columns);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION orochi._detach_shell(shell oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    item text;
BEGIN
    IF to_regclass('pg_orochi.shell_' || shell) IS NOT NULL THEN
        EXECUTE format('DROP FOREIGN TABLE pg_orochi.%I', 'shell_' || shell);
    END IF;
    FOR item IN SELECT tgname FROM pg_catalog.pg_trigger
        WHERE tgrelid = shell AND tgname IN ('orochi_guard', 'OROCHI_insert', 'OROCHI_remove', 'orochi_send')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item, shell::regclass);
    END LOOP;
END $$;

-- The child goes with its shell. OROCHI_remove comes before the triggers of foreign keys, which then find no
-- row to check: the nodes check them. The triggers are marked internal, so that \d and pg_dump leave them out.
CREATE OR REPLACE FUNCTION orochi._attach_shell(shell oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    child text := 'shell_' || shell;
    place record;
    item text;
BEGIN
    PERFORM orochi._detach_shell(shell);
    SELECT n.nspname AS schema, c.relname AS name INTO STRICT place
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = shell;
    EXECUTE format('CREATE FOREIGN TABLE pg_orochi.%I () INHERITS (%I.%I) SERVER orochi_gateway
        OPTIONS (schema_name %2$L, table_name %3$L)', child, place.schema, place.name);
    -- rows come with all their values: a sequence has the shell's defaults depend on it, and no others
    FOR item IN SELECT quote_ident(attname) FROM pg_catalog.pg_attribute
        WHERE attrelid = ('pg_orochi.' || child)::regclass AND attnum > 0 AND atthasdef AND attgenerated = ''
    LOOP
        EXECUTE format('ALTER FOREIGN TABLE pg_orochi.%I ALTER COLUMN %s DROP DEFAULT', child, item);
    END LOOP;
    UPDATE pg_catalog.pg_depend SET deptype = 'a' WHERE deptype = 'n' AND refobjid = shell AND refobjsubid = 0
        AND refclassid = 'pg_catalog.pg_class'::regclass AND classid = 'pg_catalog.pg_class'::regclass
        AND objid = ('pg_orochi.' || child)::regclass;
    EXECUTE format('CREATE TRIGGER "OROCHI_insert" BEFORE INSERT ON %I.%I
        FOR EACH ROW EXECUTE FUNCTION orochi._insert_row()', place.schema, place.name);
    EXECUTE format('CREATE TRIGGER "OROCHI_remove" AFTER INSERT ON %I.%I
        FOR EACH ROW EXECUTE FUNCTION orochi._remove_row()', place.schema, place.name);
    EXECUTE format('CREATE TRIGGER orochi_send AFTER INSERT ON %I.%I REFERENCING NEW TABLE AS orochi_new
        FOR EACH STATEMENT EXECUTE FUNCTION orochi._send_rows()', place.schema, place.name);
    UPDATE pg_catalog.pg_trigger SET tgisinternal = true
        WHERE tgrelid = shell AND tgname IN ('OROCHI_insert', 'OROCHI_remove', 'orochi_send');
END $$;

-- Shells that were renamed, alone or with their schema.
CREATE OR REPLACE FUNCTION orochi._follow_shells() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT f.ftrelid::regclass AS child, n.nspname AS schema, c.relname AS name
        FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
        JOIN pg_catalog.pg_inherits i ON i.inhrelid = f.ftrelid
        JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE s.srvname = 'orochi_gateway'
            AND NOT f.ftoptions @> ARRAY['schema_name=' || n.nspname, 'table_name=' || c.relname]
    LOOP
        EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (SET schema_name %L, SET table_name %L)',
                       item.child, item.schema, item.name);
    END LOOP;
END $$;

-- A call of one of Orochi's functions that a body makes: the gateway does it, in a session of the same role and in a
-- transaction of its own, as nothing is left of the caller's then that it could wait for (`gateway/bodies.py`). What is asked for is
-- the condition on a foreign table, which no server has. At the top of a statement (`context` has one line), functions refuse.
DO $$
BEGIN
    IF to_regclass('pg_orochi.calls') IS NULL THEN
        CREATE FOREIGN TABLE pg_orochi.calls (request text, answer text) SERVER orochi_gateway
            OPTIONS (schema_name 'orochi', table_name '_calls');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION orochi._ask_gateway(request jsonb) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT answer FROM pg_orochi.calls WHERE request = %L', encode(convert_to(
        -- the role that the session has, not that of a function with its owner's rights: no caller can forge it
        (request || jsonb_build_object('role', CASE current_setting('role') WHEN 'none' THEN session_user::text
            ELSE current_setting('role') END))::text, 'UTF8'), 'hex'));
END $$;

CREATE OR REPLACE FUNCTION orochi._from_body(name text, arguments jsonb, context text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    IF strpos(context, E'\n') = 0 THEN
        PERFORM orochi._refuse_call(name);
    END IF;
    RETURN QUERY SELECT a FROM orochi._ask_gateway(jsonb_build_object('function', name, 'arguments', arguments,
        'settings', (SELECT jsonb_object_agg(s.name, current_setting(s.name))
                     FROM unnest(ARRAY['TimeZone', 'DateStyle', 'IntervalStyle']) AS s(name)))) AS a;
END $$;

REVOKE ALL ON FUNCTION orochi._attach_shell(oid), orochi._detach_shell(oid), orochi._follow_shells(),
    orochi._remove_row(), orochi._insert_row(), orochi._send_rows() FROM PUBLIC;
SELECT orochi._attach_shell(table_oid) FROM orochi.orochi_tables;
