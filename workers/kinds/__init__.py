"""The kinds of jobs, one folder each with its stages, and the other work that workers lease.

To add a kind, write its spec in `excise.specs` and a folder here, and add a line for each to the
tables in `excise.specs` and `workers.kinds.registry`.
"""
