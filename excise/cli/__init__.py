"""The command line: all commands that need only the REST API, one module per group."""
