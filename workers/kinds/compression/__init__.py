"""The stages of a compression: a thin layer over `workers.compression`."""
