"""Checkpoints: which models a job may name."""
