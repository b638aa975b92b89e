"""API keys: creating, checking and revoking them."""
