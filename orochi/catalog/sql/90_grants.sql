SELECT orochi._publish();
REVOKE EXECUTE ON FUNCTION orochi.stat_statements_reset(), orochi_api.stat_statements_reset() FROM PUBLIC;
GRANT USAGE ON SCHEMA orochi, timescaledb_information TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA orochi TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA timescaledb_information TO PUBLIC;
REVOKE ALL ON orochi.orochi_secret, orochi.orochi_transactions, orochi.orochi_cleanup, orochi.orochi_jobs, orochi.orochi_job_runs,
    orochi.orochi_installed_sql FROM PUBLIC;
INSERT INTO orochi.orochi_secret DEFAULT VALUES ON CONFLICT DO NOTHING;
