-- An argument of an Orochi function as the gateway reads it.
CREATE OR REPLACE FUNCTION orochi._argument(value anyelement) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object('text', value::text) || CASE pg_typeof(value)
        WHEN 'regclass'::regtype THEN jsonb_build_object('oid', value::text::regclass::oid::bigint)
        WHEN 'regproc'::regtype THEN jsonb_build_object('oid', value::text::regproc::oid::bigint)
        WHEN 'regproc'::regtype THEN jsonb_build_object('oid', value::text::regproc::oid::bigint)
        WHEN 'orochi.time_value'::regtype THEN jsonb_build_object(
            'kind', orochi._time_kind(value::text::orochi.time_value),
            'text', orochi._time_text(value::text::orochi.time_value), 'given', value::text)
        WHEN 'orochi.dimension_info'::regtype THEN jsonb_build_object('fields', to_jsonb(value))
        ELSE '{}' END;
END $$;

-- What Orochi's functions do past the gateway.
CREATE OR REPLACE FUNCTION orochi._refuse_call(name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%() must be called through the Orochi gateway', name
        USING ERRCODE = '0A000', HINT = 'Connect to the gateway, and call it in a SELECT of its own.';
END $$;

-- A call inside of a body goes to the gateway where there is a way to it: see loopback.sql.
CREATE OR REPLACE FUNCTION orochi._from_body(name text, arguments jsonb, context text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM orochi._refuse_call(name);
END $$;
