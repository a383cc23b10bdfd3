-- Orochi's functions once more, in a schema that holds nothing else. It stands on the search_path in the
-- place of schema orochi, whose tables and views would otherwise show among a user's own.
CREATE SCHEMA IF NOT EXISTS orochi_api;
GRANT USAGE ON SCHEMA orochi_api TO PUBLIC;

CREATE OR REPLACE FUNCTION orochi._publish() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    definition text;
BEGIN
    FOR definition IN
        SELECT pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'orochi'::pg_catalog.regnamespace AND p.prokind IN ('f', 'p')
          AND NOT pg_catalog.starts_with(p.proname, '_')
    LOOP
        EXECUTE pg_catalog.regexp_replace(
            definition, '^(CREATE OR REPLACE (?:FUNCTION|PROCEDURE) )orochi\.', '\1orochi_api.');
    END LOOP;
END $$;
SELECT orochi._publish();

CREATE OR REPLACE AGGREGATE orochi_api.histogram(double precision, double precision, double precision, integer) (
    SFUNC = orochi._histogram_step, STYPE = integer[], COMBINEFUNC = orochi._histogram_combine, PARALLEL = SAFE);
CREATE OR REPLACE AGGREGATE orochi_api.first(anyelement, anycompatible) (
    SFUNC = orochi._first_step, STYPE = text[], FINALFUNC = orochi._bookend_result, FINALFUNC_EXTRA);
CREATE OR REPLACE AGGREGATE orochi_api.last(anyelement, anycompatible) (
    SFUNC = orochi._last_step, STYPE = text[], FINALFUNC = orochi._bookend_result, FINALFUNC_EXTRA);
