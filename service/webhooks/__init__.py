"""Webhooks: signed posts about events of jobs and versions."""
