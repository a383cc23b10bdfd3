"""A table whose chunks live their whole life while the processes that carry it are killed."""
