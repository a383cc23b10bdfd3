-- What every node needs before it can hold shards.
CREATE SCHEMA IF NOT EXISTS orochi;
CREATE SCHEMA IF NOT EXISTS orochi_data;
GRANT USAGE ON SCHEMA orochi TO PUBLIC;

-- Rows of stripes that are gone: deleted, or recalled into the heap to be changed there. In the
-- node's own database, so that one local transaction covers the heap and the stripes.
CREATE TABLE IF NOT EXISTS orochi_data.delete_vectors (
    stripe_id bigint NOT NULL,
    row_number integer NOT NULL,
    PRIMARY KEY (stripe_id, row_number)
);
