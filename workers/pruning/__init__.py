"""Pruning: scores over relevance, ranking, masks on a model in memory, reversible patches."""
