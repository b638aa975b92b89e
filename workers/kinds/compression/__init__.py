"""A compression job: its stages, thin, over `workers.compression`."""
