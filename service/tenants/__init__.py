"""Tenants: their quotas, their usage and their deletion."""
