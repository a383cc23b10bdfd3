-- time_bucket with TimescaleDB's overloads and results. Installed on the coordinator and on every
-- node, so that fragments can call it. Not STRICT and without stable parts: PostgreSQL inlines them.

CREATE OR REPLACE FUNCTION orochi._width_months(width interval) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (extract(year FROM width) * 12 + extract(month FROM width))::integer $$;

CREATE OR REPLACE FUNCTION orochi._checked_months(width interval) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    months integer := orochi._width_months(width);
BEGIN
    IF width <> make_interval(months => months) THEN
        RAISE EXCEPTION 'month intervals cannot have day or time component' USING ERRCODE = '0A000';
    ELSIF months <= 0 THEN
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

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._width_months(bucket_width) = 0
        THEN date_bin(bucket_width, ts, timestamp '2000-01-03')
        ELSE orochi._month_bucket(bucket_width, ts, timestamp '2000-01-01') END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp, origin timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._width_months(bucket_width) = 0
        THEN date_bin(bucket_width, ts, origin)
        ELSE orochi._month_bucket(bucket_width, ts, origin) END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamp, "offset" interval) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width, ts - "offset") + "offset" $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._width_months(bucket_width) = 0
        THEN date_bin(bucket_width, ts, timestamptz '2000-01-03 00:00:00+00')
        ELSE orochi._month_bucket(bucket_width, ts AT TIME ZONE 'UTC', timestamp '2000-01-01') AT TIME ZONE 'UTC' END
$$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts timestamptz, origin timestamptz)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN orochi._width_months(bucket_width) = 0
        THEN date_bin(bucket_width, ts, origin)
        ELSE orochi._month_bucket(bucket_width, ts AT TIME ZONE 'UTC', origin AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END
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

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width, ts::timestamp)::date $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date, origin date) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width, ts::timestamp, origin::timestamp)::date $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width interval, ts date, "offset" interval) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (orochi.time_bucket(bucket_width, ts::timestamp - "offset") + "offset")::date $$;

CREATE OR REPLACE FUNCTION orochi._integer_bucket(width numeric, value numeric, "offset" numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
BEGIN
    IF width <= 0 THEN
        RAISE EXCEPTION 'period must be greater than 0' USING ERRCODE = '22023';
    END IF;
    RETURN floor((value - "offset") / width) * width + "offset";
END $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width bigint, ts bigint, "offset" bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN bucket_width > 0 AND ts >= "offset" AND "offset" >= 0
          THEN ts - (ts - "offset") % bucket_width
          ELSE orochi._integer_bucket(bucket_width, ts, "offset")::bigint END $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width integer, ts integer, "offset" integer DEFAULT 0)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN bucket_width > 0 AND ts >= "offset" AND "offset" >= 0
          THEN ts - (ts - "offset") % bucket_width
          ELSE orochi._integer_bucket(bucket_width, ts, "offset")::integer END $$;

CREATE OR REPLACE FUNCTION orochi.time_bucket(bucket_width smallint, ts smallint, "offset" smallint DEFAULT 0::smallint)
RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT orochi.time_bucket(bucket_width::integer, ts::integer, "offset"::integer)::smallint $$;
