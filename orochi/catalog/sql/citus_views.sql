-- Where users of Citus look for them, on any search_path. Needs a superuser.
SET LOCAL allow_system_table_mods = on;
CREATE OR REPLACE VIEW pg_catalog.citus_tables AS SELECT * FROM orochi.citus_tables;
CREATE OR REPLACE VIEW pg_catalog.citus_shards AS SELECT * FROM orochi.citus_shards;
CREATE OR REPLACE VIEW pg_catalog.citus_stat_activity AS SELECT * FROM orochi.stat_activity;
CREATE OR REPLACE VIEW pg_catalog.citus_stat_statements AS SELECT * FROM orochi.citus_stat_statements;
GRANT SELECT ON pg_catalog.citus_tables, pg_catalog.citus_shards, pg_catalog.citus_stat_activity,
    pg_catalog.citus_stat_statements TO PUBLIC;
