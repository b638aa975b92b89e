"""The command line: every command that needs nothing but the REST API, one module a group."""
