-- The aggregates of sketches, in both schemas; the partial ones of histogram.
DO $do$
DECLARE
    wanted text;
    made record;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['orochi', 'orochi_api'] LOOP
        FOR made IN SELECT * FROM (VALUES
            ('hyperloglog(integer, anyelement)', '_hll_step', 'bytea', 'orochi._hll_merge', 'orochi._hll_settled'),
            ('approx_count_distinct(anyelement)', '_hll_step', 'bytea', 'orochi._hll_merge', 'orochi._hll_count'),
            ('rollup(bytea)', '_hll_merge', 'bytea', 'orochi._hll_merge', NULL),
            ('tdigest(integer, double precision)', '_udd_step', 'double precision[]', 'orochi._udd_merge', 'orochi._udd_settled'),
            ('uddsketch(integer, double precision, double precision)', '_udd_step', 'double precision[]',
                'orochi._udd_merge', 'orochi._udd_settled'),
            ('rollup(double precision[])', '_udd_merge', 'double precision[]', 'orochi._udd_merge', NULL)
            ) AS given(signature, step, state, merge, final) LOOP
            EXECUTE format('CREATE OR REPLACE AGGREGATE %I.%s (SFUNC = orochi.%s, STYPE = %s, COMBINEFUNC = %s,%s PARALLEL = SAFE)',
                wanted, made.signature, made.step, made.state, made.merge, ' FINALFUNC = ' || made.final || ',');
        END LOOP;
        EXECUTE format('CREATE OR REPLACE AGGREGATE %I.percentile_agg(double precision) (SFUNC = array_append,
            STYPE = double precision[], COMBINEFUNC = array_cat, FINALFUNC = orochi._udd_of, PARALLEL = SAFE)', wanted);
    END LOOP;
END $do$;

CREATE OR REPLACE AGGREGATE orochi._merged_histogram(integer[]) (
    SFUNC = orochi._histogram_combine, STYPE = integer[], PARALLEL = SAFE);
