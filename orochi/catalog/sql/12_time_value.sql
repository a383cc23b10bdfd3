-- A length or a point of time, as it was given: an interval, a timestamp, a date, an integer, or a
-- literal that may be any of them. One parameter type instead of an overload for each, so that calls
-- with named and defaulted arguments stay unambiguous. Its text starts with what it was, unless a literal.
DO $$
DECLARE
    source text;
BEGIN
    IF to_regtype('orochi.time_value') IS NOT NULL THEN
        RETURN;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        CREATE DOMAIN orochi.time_value AS text;  -- then only literals and text can be given
        RETURN;
    END IF;
    CREATE TYPE orochi.time_value;
    CREATE FUNCTION orochi._time_value_in(cstring) RETURNS orochi.time_value
        LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textin';
    CREATE FUNCTION orochi._time_value_out(orochi.time_value) RETURNS cstring
        LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textout';
    CREATE FUNCTION orochi._time_value_recv(internal) RETURNS orochi.time_value
        LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textrecv';
    CREATE FUNCTION orochi._time_value_send(orochi.time_value) RETURNS bytea
        LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textsend';
    CREATE TYPE orochi.time_value (INPUT = orochi._time_value_in, OUTPUT = orochi._time_value_out,
        RECEIVE = orochi._time_value_recv, SEND = orochi._time_value_send, LIKE = pg_catalog.text, CATEGORY = 'S');
    CREATE CAST (text AS orochi.time_value) WITH INOUT AS IMPLICIT;
    FOREACH source IN ARRAY ARRAY['interval', 'timestamptz', 'timestamp', 'date', 'bigint', 'integer', 'smallint'] LOOP
        EXECUTE format('CREATE FUNCTION orochi._time_value(value %1$s) RETURNS orochi.time_value
            LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $f$ SELECT (%2$L || value::text)::orochi.time_value $f$',
            source, CASE WHEN source LIKE '%int%' AND source <> 'interval' THEN '' ELSE source || ' ' END);
        EXECUTE format('CREATE CAST (%1$s AS orochi.time_value) WITH FUNCTION orochi._time_value(%1$s) AS IMPLICIT',
            source);
    END LOOP;
END $$;

-- What a value was given as: 'interval', 'timestamptz', 'timestamp', 'date', 'integer', or 'literal'.
CREATE OR REPLACE FUNCTION orochi._time_kind(value orochi.time_value) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value::text ~ '^(interval|timestamptz|timestamp|date) ' THEN split_part(value::text, ' ', 1)
        WHEN value::text ~ '^\s*[-+]?\d+\s*$' THEN 'integer' ELSE 'literal' END
$$;

CREATE OR REPLACE FUNCTION orochi._time_text(value orochi.time_value) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT regexp_replace(value::text, '^(interval|timestamptz|timestamp|date) ', '') $$;

-- A length of time in microseconds, months counting 30 days; NULL for an integer.
CREATE OR REPLACE FUNCTION orochi._time_microseconds(value orochi.time_value) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._time_kind(value) <> 'integer'
        THEN orochi._interval_microseconds(orochi._time_text(value)::interval) END
$$;
