"""Leases: which worker may work on a row, and until when, for every table with work for workers.

`operations` claims, renews, releases and sweeps; a `policy` holds what differs between tables.
"""
