"""A circuit job: its stages, thin, over `workers.circuits`."""
