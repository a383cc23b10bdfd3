-- Separate from the rest: these need a superuser (or a provider's equivalent).
DROP EVENT TRIGGER IF EXISTS orochi_on_drop;
DROP EVENT TRIGGER IF EXISTS orochi_on_ddl;
DROP EVENT TRIGGER IF EXISTS orochi_on_rights;
CREATE EVENT TRIGGER orochi_on_drop ON sql_drop EXECUTE FUNCTION orochi._on_drop();
CREATE EVENT TRIGGER orochi_on_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER VIEW', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'CREATE VIEW',
                 'CREATE INDEX', 'ALTER INDEX', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
                 'CREATE MATERIALIZED VIEW', 'REFRESH MATERIALIZED VIEW', 'CREATE FOREIGN TABLE', 'CREATE SEQUENCE', 'CREATE TYPE',
                 'CREATE SCHEMA', 'IMPORT FOREIGN SCHEMA', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE',
                 'ALTER SEQUENCE')
    EXECUTE FUNCTION orochi._on_ddl();
CREATE EVENT TRIGGER orochi_on_rights ON ddl_command_end
    WHEN TAG IN ('GRANT', 'REVOKE') EXECUTE FUNCTION orochi._on_rights();
