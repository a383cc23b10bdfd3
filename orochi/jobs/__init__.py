"""Jobs: policies of tables and jobs of users, run by workers at their time. The catalog's rows are the only truth."""
