"""Leases: which worker may work on a row, and until when, for every table workers take work from.

`operations` claims, renews, releases and sweeps; what differs from table to table is a `policy`.
"""
