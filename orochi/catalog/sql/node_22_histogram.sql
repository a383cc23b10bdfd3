-- histogram(value, min, max, nbuckets): how many values lie below min, in each of the equally wide buckets, and
-- from max on. NULLs do not count; of no values it is NULL.

CREATE OR REPLACE FUNCTION orochi._histogram_step(
    state integer[], value double precision, min double precision, max double precision, nbuckets integer)
RETURNS integer[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    place integer;
BEGIN
    IF value IS NULL OR min IS NULL OR max IS NULL OR nbuckets IS NULL THEN
        RETURN state;
    ELSIF min > max THEN
        RAISE EXCEPTION 'lower bound cannot exceed upper bound' USING ERRCODE = '22023';
    ELSIF cardinality(state) <> nbuckets + 2 THEN
        RAISE EXCEPTION 'number of buckets must not change between calls' USING ERRCODE = '22023';
    END IF;
    place := width_bucket(value, min, max, nbuckets) + 1;  -- which refuses bounds and numbers that make no bucket
    IF state IS NULL THEN
        state := array_fill(0, ARRAY[nbuckets + 2]);
    END IF;
    state[place] := state[place] + 1;
    RETURN state;
END $$;

CREATE OR REPLACE FUNCTION orochi._histogram_combine(one integer[], other integer[])
RETURNS integer[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF one IS NULL OR other IS NULL THEN
        RETURN coalesce(one, other);
    ELSIF cardinality(one) <> cardinality(other) THEN
        RAISE EXCEPTION 'number of buckets must not change between calls' USING ERRCODE = '22023';
    END IF;
    RETURN ARRAY(SELECT a + b FROM unnest(one, other) WITH ORDINALITY AS counted(a, b, place) ORDER BY place);
END $$;

CREATE OR REPLACE AGGREGATE orochi.histogram(double precision, double precision, double precision, integer) (
    SFUNC = orochi._histogram_step, STYPE = integer[], COMBINEFUNC = orochi._histogram_combine, PARALLEL = SAFE);
