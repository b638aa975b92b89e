"""Celery tasks: load by id, call the core, store, hand on an id."""
