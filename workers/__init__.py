"""The Excise workers: the numerical core and the Celery tasks that run it."""
