-- time_bucket_gapfill, locf and interpolate. The gateway turns a query that groups by
-- time_bucket_gapfill into one with a row for every bucket (planner/gapfill.py); called elsewhere they are
-- time_bucket and the value itself, as in TimescaleDB. What starts with _gapfill is what such a query is made of.

CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width smallint, ts smallint, start smallint DEFAULT NULL, finish smallint DEFAULT NULL) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width integer, ts integer, start integer DEFAULT NULL, finish integer DEFAULT NULL) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width bigint, ts bigint, start bigint DEFAULT NULL, finish bigint DEFAULT NULL) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width interval, ts date, start date DEFAULT NULL, finish date DEFAULT NULL) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width interval, ts timestamp, start timestamp DEFAULT NULL, finish timestamp DEFAULT NULL)
RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width interval, ts timestamptz, start timestamptz DEFAULT NULL, finish timestamptz DEFAULT NULL)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts) $$;
CREATE OR REPLACE FUNCTION orochi.time_bucket_gapfill(
    bucket_width interval, ts timestamptz, timezone text, start timestamptz DEFAULT NULL,
    finish timestamptz DEFAULT NULL) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi.time_bucket(bucket_width, ts, timezone) $$;

CREATE OR REPLACE FUNCTION orochi.locf(
    value anyelement, prev anyelement DEFAULT NULL, treat_null_as_missing boolean DEFAULT false) RETURNS anyelement
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT value $$;
CREATE OR REPLACE FUNCTION orochi.interpolate(
    value smallint, prev record DEFAULT NULL, next record DEFAULT NULL) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN value; END $$;
CREATE OR REPLACE FUNCTION orochi.interpolate(
    value integer, prev record DEFAULT NULL, next record DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN value; END $$;
CREATE OR REPLACE FUNCTION orochi.interpolate(
    value bigint, prev record DEFAULT NULL, next record DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN value; END $$;
CREATE OR REPLACE FUNCTION orochi.interpolate(
    value real, prev record DEFAULT NULL, next record DEFAULT NULL) RETURNS real
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN value; END $$;
CREATE OR REPLACE FUNCTION orochi.interpolate(
    value double precision, prev record DEFAULT NULL, next record DEFAULT NULL) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN value; END $$;

-- The least value after one, of the kind that a bucket's start is.
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample smallint, bound smallint) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (bound + 1)::smallint $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample integer, bound integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bound + 1 $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample bigint, bound bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bound + 1 $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample date, bound date) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bound + 1 $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample timestamp, bound timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bound + interval '1 microsecond' $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_after(sample timestamptz, bound timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bound + interval '1 microsecond' $$;

-- A start that is an outer query's column; where it is a text, a time zone was meant.
CREATE OR REPLACE FUNCTION orochi._gapfill_start(sample anycompatible, start anycompatible) RETURNS anycompatible
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT start $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_start(sample anyelement, start text) RETURNS anyelement
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RAISE EXCEPTION 'time_bucket_gapfill does not support non-constant timezone'
        USING ERRCODE = '0A000', HINT = 'Use a constant timezone value.';
END $$;

CREATE OR REPLACE FUNCTION orochi._gapfill_check(too_small boolean, starts boolean, finishes boolean) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF too_small IS NULL THEN
        RAISE EXCEPTION 'invalid time_bucket_gapfill argument: bucket_width cannot be NULL' USING ERRCODE = '22023';
    ELSIF too_small THEN
        RAISE EXCEPTION 'invalid time_bucket_gapfill argument: bucket_width must be greater than 0'
            USING ERRCODE = '22023';
    ELSIF NOT (starts AND finishes) THEN
        RAISE EXCEPTION 'invalid time_bucket_gapfill argument: % cannot be NULL',
            CASE WHEN starts THEN 'finish' ELSE 'start' END
            USING ERRCODE = '22023', HINT = 'Specify start and finish as arguments or in the WHERE clause.';
    END IF;
END $$;

-- Every bucket from the one that holds `start` to the last that begins before `finish`.
-- `sample` is a NULL of the time's type.
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(width bigint, sample bigint, start bigint, finish bigint)
RETURNS SETOF bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM orochi._gapfill_check(width <= 0, start IS NOT NULL, finish IS NOT NULL);
    RETURN QUERY SELECT g FROM generate_series(orochi.time_bucket(width, start), finish, width) g WHERE g < finish;
END $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(width integer, sample integer, start integer, finish integer)
RETURNS SETOF integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT g::integer FROM orochi._gapfill_buckets(width::bigint, NULL::bigint, start::bigint, finish::bigint) g
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(width smallint, sample smallint, start smallint, finish smallint)
RETURNS SETOF smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT g::smallint FROM orochi._gapfill_buckets(width::bigint, NULL::bigint, start::bigint, finish::bigint) g
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(width interval, sample timestamp, start timestamp, finish timestamp)
RETURNS SETOF timestamp LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    bucket timestamp;
BEGIN
    PERFORM orochi._gapfill_check(width <= interval '0', start IS NOT NULL, finish IS NOT NULL);
    IF NOT isfinite(start) OR NOT isfinite(finish) THEN
        RAISE EXCEPTION 'invalid time_bucket_gapfill argument: start and finish must be finite'
            USING ERRCODE = '22023';
    END IF;
    bucket := orochi.time_bucket(width, start);
    WHILE bucket < finish LOOP
        RETURN NEXT bucket;
        bucket := bucket + width;
    END LOOP;
END $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(width interval, sample date, start date, finish date)
RETURNS SETOF date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT DISTINCT g::date FROM orochi._gapfill_buckets(
        width, NULL::timestamp, orochi.time_bucket(width, start)::timestamp, finish::timestamp) g
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(
    width interval, sample timestamptz, start timestamptz, finish timestamptz)
RETURNS SETOF timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT g AT TIME ZONE 'UTC' FROM orochi._gapfill_buckets(
        width, NULL::timestamp, start AT TIME ZONE 'UTC', finish AT TIME ZONE 'UTC') g
$$;
-- Buckets of a time zone: an hour that a change of clocks skips is none. One that it repeats is two where
-- buckets are an hour or a part of it; of its rows time_bucket makes one, as TimescaleDB's does.
CREATE OR REPLACE FUNCTION orochi._gapfill_buckets(
    width interval, sample timestamptz, start timestamptz, finish timestamptz, timezone text)
RETURNS SETOF timestamptz LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    first timestamptz := orochi.time_bucket(width, start, timezone);
BEGIN
    IF timezone IS NULL THEN
        RAISE EXCEPTION 'invalid time_bucket_gapfill argument: timezone cannot be NULL' USING ERRCODE = '22023';
    ELSIF width > interval '0' AND width <= interval '1 hour' AND 3600 % extract(epoch FROM width) = 0 THEN
        RETURN QUERY SELECT first + (g.b - timestamp '2000-01-01') FROM orochi._gapfill_buckets(width, NULL::timestamp,
            timestamp '2000-01-01', timestamp '2000-01-01' + (finish - first)) AS g(b);
    ELSE
        RETURN QUERY SELECT DISTINCT b FROM (
            SELECT orochi.time_bucket(width, g AT TIME ZONE _gapfill_buckets.timezone, _gapfill_buckets.timezone) AS b
            FROM orochi._gapfill_buckets(width, NULL::timestamp, start AT TIME ZONE _gapfill_buckets.timezone,
                                         finish AT TIME ZONE _gapfill_buckets.timezone) g) buckets
        WHERE b < finish;
    END IF;
END $$;

-- Where a bucket lies on a line.
CREATE OR REPLACE FUNCTION orochi._gapfill_at(bucket bigint) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT bucket::numeric $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_at(bucket timestamp) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT extract(epoch FROM bucket) $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_at(bucket timestamptz) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT extract(epoch FROM bucket) $$;

-- What was given as the point before the first bucket, or after the last, is of the very types.
CREATE OR REPLACE FUNCTION orochi._gapfill_given(part text, expected regtype, actual regtype) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF expected <> actual THEN
        RAISE EXCEPTION '% of interpolate returned record must match used % datatype',
            CASE part WHEN 'time' THEN 'first argument' ELSE 'second argument' END,
            CASE part WHEN 'time' THEN 'timestamp' ELSE 'interpolate' END
            USING ERRCODE = '22023',
                  DETAIL = format('Returned type %s does not match expected type %s.', actual, expected);
    END IF;
END $$;
CREATE OR REPLACE FUNCTION orochi._gapfill_given_at(bucket anyelement, given anycompatible) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM orochi._gapfill_given('time', pg_typeof(bucket), pg_typeof(given));
    RETURN orochi._gapfill_at(given);
END $$;
-- stable, so that constants are not looked at before the time of the same point
CREATE OR REPLACE FUNCTION orochi._gapfill_given_value(value anyelement, given anycompatible) RETURNS anyelement
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM orochi._gapfill_given('value', pg_typeof(value), pg_typeof(given));
    RETURN given;
END $$;

-- The value at x on the line through (x0, y0) and (x1, y1); NULL if one is missing. `value` is of the
-- result's type and not read; integers are computed exactly, and rounded half away from zero.
CREATE OR REPLACE FUNCTION orochi._gapfill_on_line(
    value double precision, x numeric, x0 numeric, y0 double precision, x1 numeric, y1 double precision)
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN x0 = x1 THEN y0
        ELSE (y0 * (x1 - x)::double precision + y1 * (x - x0)::double precision) / (x1 - x0)::double precision END
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_on_line(
    value real, x numeric, x0 numeric, y0 real, x1 numeric, y1 real) RETURNS real
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT orochi._gapfill_on_line(NULL::double precision, x, x0, y0, x1, y1)::real
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_on_line(
    value bigint, x numeric, x0 numeric, y0 bigint, x1 numeric, y1 bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN x0 = x1 THEN y0 ELSE round((y0 * (x1 - x) + y1 * (x - x0)) / (x1 - x0))::bigint END
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_on_line(
    value integer, x numeric, x0 numeric, y0 integer, x1 numeric, y1 integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT orochi._gapfill_on_line(NULL::bigint, x, x0, y0, x1, y1)::integer
$$;
CREATE OR REPLACE FUNCTION orochi._gapfill_on_line(
    value smallint, x numeric, x0 numeric, y0 smallint, x1 numeric, y1 smallint) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT orochi._gapfill_on_line(NULL::bigint, x, x0, y0, x1, y1)::smallint
$$;
