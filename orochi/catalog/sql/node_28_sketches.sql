-- Sketches: how many distinct values there are (HyperLogLog) and where their quantiles lie (UddSketch). They are
-- of plain types, bytea and double precision[], so that tables and fragments carry them. Merging two gives the very
-- sketch of all their rows, whatever the order.
--
-- hyperloglog: up to 512 distinct hashes of eight bytes as they are, sorted: their number is exact. More than that:
-- 16384 registers of one byte; the standard error is 0.8 %.

CREATE OR REPLACE FUNCTION orochi._hll_rank(hash bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN (hash >> 14) & 1125899906842623 = 0 THEN 51
        ELSE 1 + round(ln(((hash >> 14) & -(hash >> 14) & 1125899906842623)::double precision) / 0.6931471805599453)::integer END
$$;

CREATE OR REPLACE FUNCTION orochi._hll_registers(hashes bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    registers bytea := decode(repeat('00', 16384), 'hex');
    found record;
BEGIN
    FOR found IN SELECT (hash & 16383)::integer AS place, max(orochi._hll_rank(hash)) AS rank
            FROM (SELECT ('x' || encode(substr(hashes, at, 8), 'hex'))::bit(64)::bigint AS hash
                  FROM generate_series(1, length(hashes), 8) at) given GROUP BY 1 LOOP
        registers := set_byte(registers, found.place, found.rank);
    END LOOP;
    RETURN registers;
END $$;

-- The one form that a set of values has.
CREATE OR REPLACE FUNCTION orochi._hll_settled(state bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    hashes bytea;
BEGIN
    IF length(state) = 16384 THEN
        RETURN state;
    ELSIF length(state) > 16384 OR length(state) % 8 <> 0 THEN
        RAISE EXCEPTION 'not a hyperloglog sketch' USING ERRCODE = '22023';
    END IF;
    SELECT string_agg(hash, '' ORDER BY hash) INTO hashes
        FROM (SELECT DISTINCT substr(state, at, 8) AS hash FROM generate_series(1, length(state), 8) at) given;
    RETURN CASE WHEN length(hashes) > 4096 THEN orochi._hll_registers(hashes) ELSE hashes END;
END $$;

-- Both aggregates' steps are one body.
DO $do$
DECLARE
    body text := $body$
DECLARE
    hash bigint;
    rank integer;
BEGIN
    IF value IS NULL THEN
        RETURN state;
    END IF;
    hash := hash_record_extended(ROW(value), 0);
    IF length(state) = 16384 THEN
        rank := orochi._hll_rank(hash);
        IF get_byte(state, (hash & 16383)::integer) < rank THEN
            RETURN set_byte(state, (hash & 16383)::integer, rank);
        END IF;
        RETURN state;
    END IF;
    %s
    IF length(state) >= 8184 THEN
        RETURN orochi._hll_settled(state || int8send(hash));
    END IF;
    RETURN coalesce(state, '') || int8send(hash);
END $body$;
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION orochi._hll_step(state bytea, value anyelement) RETURNS bytea
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS %L', format(body, ''));
    EXECUTE format('CREATE OR REPLACE FUNCTION orochi._hll_step(state bytea, buckets integer, value anyelement)
        RETURNS bytea LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS %L', format(body, $check$
    IF buckets IS NULL OR buckets NOT BETWEEN 16 AND 262144 THEN
        RAISE EXCEPTION 'invalid number of buckets: must be between 16 and 262144' USING ERRCODE = '22023';
    END IF;$check$));
END $do$;

CREATE OR REPLACE FUNCTION orochi._hll_merge(one bytea, other bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF one IS NULL OR other IS NULL THEN
        RETURN orochi._hll_settled(coalesce(one, other));
    ELSIF length(one) < 16384 AND length(other) < 16384 THEN
        RETURN orochi._hll_settled(one || other);
    END IF;
    one := CASE WHEN length(one) < 16384 THEN orochi._hll_registers(one) ELSE orochi._hll_settled(one) END;
    other := CASE WHEN length(other) < 16384 THEN orochi._hll_registers(other) ELSE orochi._hll_settled(other) END;
    RETURN (SELECT string_agg(greatest(substr(one, at, 1), substr(other, at, 1)), '' ORDER BY at)
            FROM generate_series(1, 16384) at);
END $$;

-- The estimate of Ertl's "New cardinality estimation algorithms for HyperLogLog sketches": it needs no corrections.
CREATE OR REPLACE FUNCTION orochi.distinct_count(sketch bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    counts integer[] := array_fill(0, ARRAY[52], ARRAY[0]);
    found record;
    z double precision := 0;
    x double precision;
    y double precision;
    last double precision;
BEGIN
    sketch := orochi._hll_settled(sketch);
    IF length(sketch) < 16384 THEN
        RETURN length(sketch) / 8;
    END IF;
    FOR found IN SELECT get_byte(sketch, at) AS rank, count(*) AS number FROM generate_series(0, 16383) at GROUP BY 1 LOOP
        counts[found.rank] := found.number;
    END LOOP;
    x := 1 - counts[51] / 16384.0;
    IF x > 0 AND x < 1 THEN
        y := 1;
        z := 1 - x;
        LOOP
            x := sqrt(x);
            last := z;
            y := y * 0.5;
            z := z - (1 - x) * (1 - x) * y;
            EXIT WHEN z = last;
        END LOOP;
        z := z / 3 * 16384;
    END IF;
    FOR rank IN REVERSE 50..1 LOOP
        z := 0.5 * (z + counts[rank]);
    END LOOP;
    x := counts[0] / 16384.0;
    y := 1;
    last := x;
    WHILE x > 0 LOOP
        x := CASE WHEN x < 1e-150 THEN 0 ELSE x * x END;
        EXIT WHEN last + x * y = last;
        last := last + x * y;
        y := y + y;
    END LOOP;
    RETURN round(16384.0 * 16384.0 / (2 * ln(2::double precision)) / (z + 16384 * last));
END $$;
-- what TimescaleDB's own approx_count_distinct gives is a sketch; ours is the number
CREATE OR REPLACE FUNCTION orochi.distinct_count(counted bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT counted $$;
CREATE OR REPLACE FUNCTION orochi.stderror(sketch bytea) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE WHEN length(sketch) < 16384 THEN 0 ELSE 1.04 / 128 END $$;
CREATE OR REPLACE FUNCTION orochi._hll_count(state bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(orochi.distinct_count(state), 0) $$;

-- percentile_agg: {level, n, n codes, their n counts, values to be counted}. With level -1 all values are there as
-- they are, up to 512 of them, sorted: quantiles are exact. Else a code stands for values alike within 0.1 %, twice
-- that for each level; when there are more than 2048 codes, the level rises.

CREATE OR REPLACE FUNCTION orochi._udd_code(value double precision, level integer) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value = 0 THEN 0 WHEN value = 'NaN' THEN 3e6 WHEN value = 'Infinity' THEN 2e6
        WHEN value = '-Infinity' THEN -2e6
        ELSE sign(value) * (1e6 + ceil(ceil(ln(abs(value)) / 0.002000000666667067) / (1 << level))) END
$$;
CREATE OR REPLACE FUNCTION orochi._udd_raised(code double precision, levels integer) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN code = 0 OR abs(code) >= 2e6 OR levels = 0 THEN code
        ELSE sign(code) * (1e6 + ceil((abs(code) - 1e6) / (1 << levels))) END
$$;
CREATE OR REPLACE FUNCTION orochi._udd_value(code double precision, level integer) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    width double precision := 0.002000000666667067 * (1 << level);
    place double precision := (abs(code) - 1e6) * width;
BEGIN
    RETURN CASE WHEN code = 0 THEN 0 WHEN code = 3e6 THEN 'NaN' WHEN abs(code) = 2e6 THEN sign(code) * 'Infinity'
        WHEN place < -700 THEN 0
        ELSE sign(code) * exp(least(place - ln((1 + exp(width)) / 2), 709.78)) END;
END $$;

-- The one form that a set of values has: of two states, or of one.
CREATE OR REPLACE FUNCTION orochi._udd_merge(one double precision[], other double precision[]) RETURNS double precision[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    level integer := greatest(one[1], other[1], 0);
    n integer := coalesce(one[2], 0);
    m integer := coalesce(other[2], 0);
    added double precision[] := coalesce(one[3 + 2 * n:], '{}') || coalesce(other[3 + 2 * m:], '{}');
    codes double precision[];
    counts double precision[];
BEGIN
    IF one IS NULL AND other IS NULL THEN
        RETURN NULL;
    ELSIF n + m = 0 AND cardinality(added) <= 512 THEN
        RETURN ARRAY[-1, 0] || ARRAY(SELECT value FROM unnest(added) value ORDER BY value);
    END IF;
    SELECT array_agg(code ORDER BY code), array_agg(number ORDER BY code) INTO codes, counts FROM (
        SELECT code, sum(number) AS number FROM (
            SELECT orochi._udd_raised(code, level - one[1]::integer) AS code, number
                FROM unnest(one[3:2 + n], one[3 + n:2 + 2 * n]) AS x(code, number)
            UNION ALL SELECT orochi._udd_raised(code, level - other[1]::integer), number
                FROM unnest(other[3:2 + m], other[3 + m:2 + 2 * m]) AS x(code, number)
            UNION ALL SELECT orochi._udd_code(value, level), 1 FROM unnest(added) value) parts
        GROUP BY code) counted;
    WHILE cardinality(codes) > 2048 LOOP
        level := level + 1;
        SELECT array_agg(code ORDER BY code), array_agg(number ORDER BY code) INTO codes, counts FROM (
            SELECT orochi._udd_raised(c, 1) AS code, sum(k) AS number FROM unnest(codes, counts) x(c, k) GROUP BY 1) raised;
    END LOOP;
    RETURN ARRAY[level, cardinality(codes)] || codes || counts;
END $$;

-- percentile_agg's state is the values: to append to them is cheap, which in PL/pgSQL it would not be.
CREATE OR REPLACE FUNCTION orochi._udd_of(given double precision[]) RETURNS double precision[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN cardinality(known) > 0 THEN orochi._udd_merge(ARRAY[-1, 0] || known, NULL) END
    FROM (SELECT array_remove(given, NULL) AS known OFFSET 0) x
$$;
CREATE OR REPLACE FUNCTION orochi._udd_settled(state double precision[]) RETURNS double precision[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT orochi._udd_merge(state, NULL) $$;

-- Sketches of a wanted size are of ours.
DO $do$
DECLARE
    arguments text;
BEGIN
    FOREACH arguments IN ARRAY ARRAY['buckets integer', 'size integer, max_error double precision'] LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION orochi._udd_step(state double precision[], %s, value double precision)
            RETURNS double precision[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS %L', arguments, $body$
BEGIN
    IF value IS NULL THEN
        RETURN state;
    ELSIF cardinality(state) >= 1025 + 2 * state[2] THEN
        state := orochi._udd_merge(state, NULL);
    END IF;
    RETURN coalesce(state, '{-1,0}') || value;
END $body$);
    END LOOP;
END $do$;

CREATE OR REPLACE FUNCTION orochi.num_vals(sketch double precision[]) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN sketch[1] < 0 THEN cardinality(sketch) - 2
        ELSE (SELECT sum(number)::bigint FROM unnest(sketch[3 + sketch[2]::integer:]) number) END
$$;

-- Linear between two values where all are known, else the middle of the values alike.
CREATE OR REPLACE FUNCTION orochi.approx_percentile(percentile double precision, sketch double precision[])
RETURNS double precision LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    n integer := sketch[2];
    place double precision;
    before integer;
BEGIN
    IF NOT percentile BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION 'percentile value % is not between 0 and 1', percentile USING ERRCODE = '22003';
    END IF;
    IF sketch[1] < 0 THEN
        sketch := orochi._udd_merge(sketch, NULL);
        place := percentile * (cardinality(sketch) - 3);
        before := floor(place);
        RETURN CASE WHEN place = before THEN sketch[3 + before]
            ELSE sketch[3 + before] + (sketch[4 + before] - sketch[3 + before]) * (place - before) END;
    END IF;
    place := floor(percentile * (orochi.num_vals(sketch) - 1));
    RETURN (SELECT orochi._udd_value(code, sketch[1]::integer) FROM (
        SELECT code, number, sum(count) OVER (ORDER BY number) AS upto
        FROM unnest(sketch[3:2 + n], sketch[3 + n:]) WITH ORDINALITY AS x(code, count, number)) sums
        WHERE upto > place ORDER BY number LIMIT 1);
END $$;

-- The share of values that are not greater.
CREATE OR REPLACE FUNCTION orochi.approx_percentile_rank(value double precision, sketch double precision[])
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN sketch[1] < 0 THEN (SELECT avg((x <= value)::integer)::double precision FROM unnest(sketch[3:]) x)
        ELSE (SELECT coalesce(sum(number) FILTER (WHERE code <= orochi._udd_code(value, sketch[1]::integer)), 0) / sum(number)
              FROM unnest(sketch[3:2 + sketch[2]::integer], sketch[3 + sketch[2]::integer:]) x(code, number)) END
$$;
-- How far a quantile may be from a value of that rank, relatively.
CREATE OR REPLACE FUNCTION orochi.error(sketch double precision[]) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN sketch[1] < 0 THEN 0 ELSE tanh(0.0010000003333335335 * (1 << sketch[1]::integer)) END
$$;
