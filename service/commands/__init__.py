"""The commands of `excise`, one module a group, and what they share."""
