-- What two-phase aggregates are made of beside PostgreSQL's own aggregates. Statistics over double
-- precision keep the very transition states of PostgreSQL and are put together by its own
-- functions, as those of its parallel workers are; their initial values are read from the server.

DO $do$
DECLARE
    moments text := (SELECT agginitval FROM pg_catalog.pg_aggregate
                     WHERE aggfnoid = 'pg_catalog.var_pop(double precision)'::regprocedure);
    comoments text := (SELECT agginitval FROM pg_catalog.pg_aggregate
                       WHERE aggfnoid = 'pg_catalog.corr(double precision, double precision)'::regprocedure);
BEGIN
    EXECUTE format('CREATE OR REPLACE AGGREGATE orochi._moments(double precision)
        (SFUNC = pg_catalog.float8_accum, STYPE = double precision[], COMBINEFUNC = pg_catalog.float8_combine,
         INITCOND = %L, PARALLEL = SAFE)', moments);
    EXECUTE format('CREATE OR REPLACE AGGREGATE orochi._merged_moments(double precision[])
        (SFUNC = pg_catalog.float8_combine, STYPE = double precision[], INITCOND = %L, PARALLEL = SAFE)', moments);
    EXECUTE format('CREATE OR REPLACE AGGREGATE orochi._comoments(double precision, double precision)
        (SFUNC = pg_catalog.float8_regr_accum, STYPE = double precision[],
         COMBINEFUNC = pg_catalog.float8_regr_combine, INITCOND = %L, PARALLEL = SAFE)', comoments);
    EXECUTE format('CREATE OR REPLACE AGGREGATE orochi._merged_comoments(double precision[])
        (SFUNC = pg_catalog.float8_regr_combine, STYPE = double precision[], INITCOND = %L, PARALLEL = SAFE)',
        comoments);
END $do$;

-- The variance of n numbers with sum s and sum of squares q, in exact arithmetic and with the scale
-- that PostgreSQL gives it; NULL for too few of them.
CREATE OR REPLACE FUNCTION orochi._variance(n numeric, s numeric, q numeric, sample boolean) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN n > CASE WHEN sample THEN 1 ELSE 0 END THEN
        CASE WHEN n * q - s * s <= 0 THEN 0
             ELSE (n * q - s * s) / (n * CASE WHEN sample THEN n - 1 ELSE n END) END END
$$;

-- Its square root, rounded once to the variance's scale: sqrt() alone may give more digits, and
-- rounding those again can be one too high.
CREATE OR REPLACE FUNCTION orochi._stddev(n numeric, s numeric, q numeric, sample boolean) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN v = 0 OR v = 'NaN' THEN v
                WHEN (r - unit / 2) * (r - unit / 2) > v THEN r - unit ELSE r END
    FROM (SELECT v, pg_catalog.round(pg_catalog.sqrt(v), pg_catalog.scale(v)) AS r,
                 ('1e-' || pg_catalog.scale(v))::numeric AS unit
          FROM (SELECT orochi._variance(n, s, q, sample) AS v OFFSET 0) AS variance OFFSET 0) AS root
$$;
