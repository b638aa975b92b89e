"""Metrics for Prometheus: counters of this process, and figures from the database."""
