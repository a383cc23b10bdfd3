-- Former signatures of functions that have more arguments now: beside the new ones, calls would be ambiguous.
DO $do$
DECLARE
    former text;
BEGIN
    FOREACH former IN ARRAY ARRAY[
        'show_chunks(regclass, orochi.time_value, orochi.time_value)',
        'drop_chunks(regclass, orochi.time_value, orochi.time_value)',
        '_call_drop_chunks(regclass, orochi.time_value, orochi.time_value)',
        'set_chunk_time_interval(regclass, orochi.time_value)',
        '_call_set_chunk_time_interval(regclass, orochi.time_value)'] LOOP
        IF to_regprocedure('orochi.' || former) IS NOT NULL THEN
            EXECUTE 'DROP FUNCTION orochi.' || former;
        END IF;
        IF to_regprocedure('orochi_api.' || former) IS NOT NULL THEN
            EXECUTE 'DROP FUNCTION orochi_api.' || former;
        END IF;
    END LOOP;
END $do$;
