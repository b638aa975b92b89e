"""Webhooks: who is told of what happens to jobs and versions, by signed posts."""
