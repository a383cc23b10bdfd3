-- `USING columnar` in PostgreSQL's own grammar: the name is known, \d+ shows it, and what is made past the
-- gateway is an ordinary table. Needs a superuser; without it the gateway takes the clause out.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_am WHERE amname = 'columnar') THEN
        CREATE ACCESS METHOD columnar TYPE TABLE HANDLER heap_tableam_handler;
        COMMENT ON ACCESS METHOD columnar IS 'columnar storage by Orochi: stripes beside a heap';
    END IF;
END $$;
