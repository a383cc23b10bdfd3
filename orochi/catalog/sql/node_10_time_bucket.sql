-- time_bucket with TimescaleDB's overloads and results. Installed on the coordinator and on every
-- node, so that fragments can call it. Not STRICT and without stable parts: PostgreSQL inlines them,
-- and what depends on the width alone is computed once. What date_bin() does not do, or does with
-- another message, goes to the functions in PL/pgSQL.

CREATE OR REPLACE FUNCTION orochi._width_months(width interval) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (extract(year FROM width) * 12 + extract(month FROM width))::integer $$;

-- Infinite widths and those of months that have days or time beside them are refused.
CREATE OR REPLACE FUNCTION orochi._checked_months(width interval) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    months integer := orochi._width_months(width);
BEGIN
    IF NOT isfinite(width) THEN
        RAISE EXCEPTION 'timestamps cannot be binned into infinite intervals' USING ERRCODE = '22008';
    ELSIF months <> 0 AND (extract(day FROM width) <> 0 OR date_trunc('day', width) <> width) THEN
        RAISE EXCEPTION 'month intervals cannot have day or time component' USING ERRCODE = '0A000';
    ELSIF months < 0 THEN
        RAISE EXCEPTION 'period must be greater than 0' USING ERRCODE = '22023';
    END IF;
    RETURN months;
END $$;

-- Months since 2000-01; years before 1 count without a year 0, as PostgreSQL's dates do internally.
CREATE OR REPLACE FUNCTION orochi._month_number(ts timestamp) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ((extract(year FROM ts) + CASE WHEN extract(year FROM ts) < 0 THEN 1 ELSE 0 END - 2000) * 12
            + extract(month FROM ts) - 1)::integer
$$;

CREATE OR REPLACE FUNCTION orochi._month_bucket(width interval, ts timestamp, origin timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN isfinite(ts) THEN
        timestamp '2000-01-01' + make_interval(months => (
            floor((orochi._month_number(ts) - orochi._month_number(origin))::numeric / orochi._checked_months(width))
            * orochi._checked_months(width))::integer + orochi._month_number(origin))
        ELSE ts END
$$;

-- A whole number's bucket: the multiples of `width`, counted from `origin`, of numbers from `low`
-- to `high`. What a number of that range would need beyond it is out of range.
CREATE OR REPLACE FUNCTION orochi._number_bucket(
    width numeric, value numeric, origin numeric, low numeric, high numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    shift numeric;
    bucket numeric;
BEGIN
    IF width <= 0 THEN
        RAISE EXCEPTION 'period must be greater than 0' USING ERRCODE = '22023';
    END IF;
    shift := origin % width;
    IF value < low + shift OR value > high + shift THEN
        RAISE EXCEPTION 'timestamp out of range' USING ERRCODE = '22008';
    END IF;
    bucket := div(value - shift, width) * width;
    IF bucket > value - shift THEN
        IF bucket < low + width THEN
            RAISE EXCEPTION 'timestamp out of range' USING ERRCODE = '22008';
        END IF;
        bucket := bucket - width;
    END IF;
    RETURN bucket + shift;
END $$;

-- Microseconds since 2000-01-01, and back; the epoch that extract() gives is rounded far from our days.
CREATE OR REPLACE FUNCTION orochi._microseconds(ts timestamp) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (ts::date - date '2000-01-01')::numeric * 86400000000 + extract(epoch FROM ts::time) * 1000000
$$;

CREATE OR REPLACE FUNCTION orochi._from_microseconds(microseconds numeric) RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN timestamp '2000-01-01' + make_interval(days => div(microseconds, 86400000000)::integer)
        + (microseconds % 86400000000)::bigint * interval '1 microsecond';
EXCEPTION WHEN datetime_field_overflow OR interval_field_overflow OR numeric_value_out_of_range THEN
    RAISE EXCEPTION 'timestamp out of range' USING ERRCODE = '22008';
END $$;

-- A bucket of any width, for times and origins of the whole range.
CREATE OR REPLACE FUNCTION orochi._any_bucket(width interval, ts timestamp, origin timestamp) RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    months integer := orochi._checked_months(width);
BEGIN
    IF NOT isfinite(ts) THEN
        RETURN ts;
    ELSIF NOT isfinite(origin) THEN
        RAISE EXCEPTION 'origin out of range' USING ERRCODE = '22008';
    ELSIF months <> 0 THEN
        RETURN orochi._month_bucket(width, ts, origin);
    END IF;
    RETURN orochi._from_microseconds(orochi._number_bucket(
        extract(epoch FROM width) * 1000000, orochi._microseconds(ts), orochi._microseconds(origin),
        -9223372036854775808, 9223372036854775807));
END $$;

-- Whether date_bin() answers for times of our days.
CREATE OR REPLACE FUNCTION orochi._is_bin(width interval) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT orochi._width_months(width) = 0 AND width > interval '0' AND width < interval '100000 years'
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_bin(bucket_width) THEN date_bin(bucket_width, ts, timestamp '2000-01-03')
        ELSE orochi._any_bucket(bucket_width, ts, CASE WHEN orochi._width_months(bucket_width) = 0
            THEN timestamp '2000-01-03' ELSE timestamp '2000-01-01' END) END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp, origin timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_bin(bucket_width) AND origin > timestamp '4000-01-01 BC'
            AND origin < timestamp '100000-01-01' AND ts > timestamp '4000-01-01 BC' AND ts < timestamp '100000-01-01'
        THEN date_bin(bucket_width, ts, origin) ELSE orochi._any_bucket(bucket_width, ts, origin) END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp, "offset" interval) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width, ts - "offset") + "offset" $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_bin(bucket_width)
        THEN date_bin(bucket_width, ts, timestamptz '2000-01-03 00:00:00+00')
        ELSE orochi.time_bucket(bucket_width, ts AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamptz, origin timestamptz)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_bin(bucket_width) AND origin > timestamptz '4000-01-01 00:00+00 BC'
            AND origin < timestamptz '100000-01-01 00:00+00' AND ts > timestamptz '4000-01-01 00:00+00 BC'
            AND ts < timestamptz '100000-01-01 00:00+00'
        THEN date_bin(bucket_width, ts, origin)
        ELSE orochi._any_bucket(bucket_width, ts AT TIME ZONE 'UTC', origin AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END
$$;

-- Adding an interval to a timestamptz depends on the session's time zone: as in TimescaleDB, stable.
CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamptz, "offset" interval)
RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width, ts - "offset") + "offset" $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(
    bucket_width interval, ts timestamptz, timezone text,
    origin timestamptz DEFAULT NULL, "offset" interval DEFAULT NULL)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (CASE WHEN origin IS NULL
        THEN orochi.time_bucket(bucket_width, (ts AT TIME ZONE timezone) - coalesce("offset", interval '0'))
        ELSE orochi.time_bucket(bucket_width, (ts AT TIME ZONE timezone) - coalesce("offset", interval '0'),
                                origin AT TIME ZONE timezone) END
        + coalesce("offset", interval '0')) AT TIME ZONE timezone
$$;

-- Buckets of dates are whole days.
CREATE OR REPLACE FUNCTION orochi._date_bucket(width interval, ts date, origin date) RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
BEGIN
    IF isfinite(ts) AND orochi._checked_months(width) = 0 THEN
        IF width <= interval '0' THEN
            RAISE EXCEPTION 'period must be greater than 0' USING ERRCODE = '22023';
        ELSIF width < interval '1 day' THEN
            RAISE EXCEPTION 'interval must not have sub-day precision' USING ERRCODE = '0A000';
        ELSIF extract(epoch FROM width) % 86400 <> 0 THEN
            RAISE EXCEPTION 'interval must be a multiple of a day' USING ERRCODE = '0A000';
        END IF;
    END IF;
    RETURN orochi._any_bucket(width, ts::timestamp, origin::timestamp)::date;
END $$;

CREATE OR REPLACE FUNCTION orochi._is_daily(width interval) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT orochi._is_bin(width) AND extract(epoch FROM width) % 86400 = 0
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_daily(bucket_width)
        THEN date_bin(bucket_width, ts::timestamp, timestamp '2000-01-03')::date
        ELSE orochi._date_bucket(bucket_width, ts, CASE WHEN orochi._width_months(bucket_width) = 0
            THEN date '2000-01-03' ELSE date '2000-01-01' END) END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date, origin date) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._is_daily(bucket_width) AND origin > date '4000-01-01 BC' AND origin < date '100000-01-01'
            AND ts > date '4000-01-01 BC' AND ts < date '100000-01-01'
        THEN date_bin(bucket_width, ts::timestamp, origin::timestamp)::date
        ELSE orochi._date_bucket(bucket_width, ts, origin) END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date, "offset" interval) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (orochi.time_bucket(bucket_width, ts::timestamp - "offset") + "offset")::date $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width bigint, ts bigint, "offset" bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN bucket_width > 0 AND ts >= "offset" AND "offset" >= 0
          THEN ts - (ts - "offset") % bucket_width
          ELSE orochi._number_bucket(bucket_width, ts, "offset", -9223372036854775808, 9223372036854775807)::bigint END $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width integer, ts integer, "offset" integer DEFAULT 0)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN bucket_width > 0 AND ts >= "offset" AND "offset" >= 0
          THEN ts - (ts - "offset") % bucket_width
          ELSE orochi._number_bucket(bucket_width, ts, "offset", -2147483648, 2147483647)::integer END $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width smallint, ts smallint, "offset" smallint DEFAULT 0::smallint)
RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN bucket_width > 0 AND ts >= "offset" AND "offset" >= 0
          THEN (ts - (ts - "offset") % bucket_width)::smallint
          ELSE orochi._number_bucket(bucket_width, ts, "offset", -32768, 32767)::smallint END $$;
