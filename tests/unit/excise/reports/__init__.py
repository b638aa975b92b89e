"""Reports: their schemas, and reading them."""
