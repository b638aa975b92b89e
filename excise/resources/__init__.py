"""Objects that the REST API takes and returns, one file per noun; specs are in `excise.specs`."""
