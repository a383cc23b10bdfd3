-- Separate from the rest: it needs PostgreSQL 17 and a superuser. COPY reads a shell alone, which is empty, so
-- pg_dump must come through the gateway, which then gives it another name.
CREATE OR REPLACE FUNCTION orochi._on_login() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF pg_catalog.current_setting('application_name') = 'pg_dump'
       AND EXISTS (SELECT FROM orochi.orochi_tables)
    THEN
        RAISE EXCEPTION 'a dump past the Orochi gateway would lack the rows of Orochi tables'
            USING ERRCODE = '0A000', HINT = 'Connect pg_dump to the Orochi gateway.';
    END IF;
END $$;
DROP EVENT TRIGGER IF EXISTS orochi_on_login;
CREATE EVENT TRIGGER orochi_on_login ON login EXECUTE FUNCTION orochi._on_login();
