"""The kinds of jobs: a folder each, with its stages; and what workers take from the service.

To add a kind, write its spec in `excise.specs` and its folder here, and give each a line: in the
table of `excise.specs` and in that of `workers.kinds.registry`.
"""
