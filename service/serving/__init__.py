"""Serving: published versions, the aliases that point at them, and the servers they are on."""
