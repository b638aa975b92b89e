"""The stages of a circuit job: a thin layer over `workers.circuits`."""
