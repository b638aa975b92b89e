"""Tenants: what they may keep, what they keep, and their end."""
