-- Which buckets of continuous aggregates writes on this node have touched, both ends included: entered by triggers
-- of the shards in the transaction of the write, so that it commits and rolls back with it. See docs/adr/0017.
CREATE TABLE IF NOT EXISTS orochi_data.aggregate_log (
    log_id bigint GENERATED ALWAYS AS IDENTITY,
    aggregate_id bigint NOT NULL,
    lowest bigint NOT NULL,
    greatest bigint NOT NULL,
    place text,
    PRIMARY KEY (aggregate_id, lowest, log_id)
);
-- The schema of the shard or chunk that was written; of entries of before it is not known.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'orochi_data.aggregate_log'::regclass AND attname = 'place') THEN
        ALTER TABLE orochi_data.aggregate_log ADD COLUMN place text;
    END IF;
END $$;

-- An entry of all buckets, where a table that the aggregate's query joins has changed, or all rows went.
CREATE OR REPLACE FUNCTION orochi_data.log_all(aggregate bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO orochi_data.aggregate_log (aggregate_id, lowest, greatest)
    VALUES (aggregate, -9223372036854775808, 9223372036854775807)
$$;

-- Wait until all transactions that were writing on this node are over, at most so many milliseconds;
-- whether they are. In pieces, so that each look has a snapshot of its own.
CREATE OR REPLACE FUNCTION orochi_data.writers() RETURNS bigint
LANGUAGE sql AS $$ SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint $$;
CREATE OR REPLACE FUNCTION orochi_data.oldest_writer() RETURNS bigint
LANGUAGE sql AS $$ SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint $$;
