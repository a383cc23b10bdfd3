"""The Celery side: the app, its launchers, and tasks whose bodies decode, call one function of `orochi`, and encode."""
