"""The Excise service: REST API, database, command line. Never imports torch or `workers`."""
