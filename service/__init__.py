"""The Excise service: REST API, database, command line. Never imports workers, torch or transformers."""
