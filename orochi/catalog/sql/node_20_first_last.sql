-- first(value, time) and last(value, time). The state is {time, value} as text, which every type
-- reads back exactly; rows without a time do not count, and the earlier of two equal times stays.

CREATE OR REPLACE FUNCTION orochi._first_step(state text[], value anyelement, sort_key anycompatible) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    best sort_key%TYPE;
BEGIN
    IF sort_key IS NULL THEN
        RETURN state;
    ELSIF state IS NOT NULL THEN
        best := state[1];
        IF NOT sort_key < best THEN
            RETURN state;
        END IF;
    END IF;
    RETURN ARRAY[sort_key::text, value::text];
END $$;

CREATE OR REPLACE FUNCTION orochi._last_step(state text[], value anyelement, sort_key anycompatible) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    best sort_key%TYPE;
BEGIN
    IF sort_key IS NULL THEN
        RETURN state;
    ELSIF state IS NOT NULL THEN
        best := state[1];
        IF NOT sort_key > best THEN
            RETURN state;
        END IF;
    END IF;
    RETURN ARRAY[sort_key::text, value::text];
END $$;

CREATE OR REPLACE FUNCTION orochi._bookend_result(state text[], value anyelement, sort_key anycompatible)
RETURNS anyelement LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    result value%TYPE;
BEGIN
    result := state[2];
    RETURN result;
END $$;

CREATE OR REPLACE AGGREGATE orochi.first(anyelement, anycompatible) (
    SFUNC = orochi._first_step, STYPE = text[], FINALFUNC = orochi._bookend_result, FINALFUNC_EXTRA);
CREATE OR REPLACE AGGREGATE orochi.last(anyelement, anycompatible) (
    SFUNC = orochi._last_step, STYPE = text[], FINALFUNC = orochi._bookend_result, FINALFUNC_EXTRA);
