"""Serving: published versions, the aliases that point to them, and the servers that hold them."""
