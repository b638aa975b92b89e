"""`excise gate`: one checkpoint judged against another."""
