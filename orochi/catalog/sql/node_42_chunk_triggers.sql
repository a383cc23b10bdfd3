-- Statements' triggers fire for the relation that a statement names, and an INSERT may name a chunk in the place of its
-- shard: so chunks have the shard's triggers that log inserts. Whoever makes such a trigger on the shard, or attaches a
-- chunk to it, calls this afterwards: each waits for the other's lock of the shard, and so the second one sees both.
CREATE OR REPLACE FUNCTION orochi_data.follow_triggers(shard regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.tgname, t.tgfoid, c.oid::regclass AS chunk
        FROM pg_trigger t
        JOIN pg_class p ON p.oid = t.tgrelid AND p.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = t.tgrelid
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE t.tgrelid = shard AND t.tgname ~ '^orochi_aggregate_\d+_insert$'
            AND NOT EXISTS (SELECT FROM pg_trigger o WHERE o.tgrelid = c.oid AND o.tgname = t.tgname)
    LOOP
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS added
            FOR EACH STATEMENT EXECUTE FUNCTION %s()', item.tgname, item.chunk, item.tgfoid::regproc);
    END LOOP;
END $$;
