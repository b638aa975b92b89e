"""What the REST API takes and returns, one file a noun; job specs are in `excise.specs`."""
