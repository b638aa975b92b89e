"""Names of compressions: sparsity patterns, calibration, and zero-shot tasks."""

from __future__ import annotations

from excise.names.name import Name


class SparsityPattern(Name):
    """Where a compression's zeros may lie in a row of weights."""

    UNSTRUCTURED = "unstructured"
    """Anywhere."""
    TWO_OF_FOUR = "2:4"
    """Two of every four consecutive weights."""
    FOUR_OF_EIGHT = "4:8"
    """Four of every eight consecutive weights."""


class Calibration(Name):
    """The model on which a block's scores are computed, in a compression."""

    ONE_SHOT = "one_shot"
    """The model as it was; every block is scored before any is pruned."""
    SEQUENTIAL = "sequential"
    """The model with all earlier blocks already pruned."""


class ZeroShotTask(Name):
    """The tasks that compressed models are compared on (arXiv 2506.13727, section 4.1)."""

    BOOLQ = "boolq"
    """Yes or no, about a passage (arXiv 1905.10044)."""
    RTE = "rte"
    """Whether one sentence follows from another (arXiv 1804.07461)."""
    HELLASWAG = "hellaswag"
    """How a scene continues (arXiv 1905.07830)."""
    WINOGRANDE = "winogrande"
    """What a pronoun refers to (arXiv 1907.10641)."""
    ARC_EASY = "arc_easy"
    """School science, the easy part (arXiv 1803.05457)."""
    ARC_CHALLENGE = "arc_challenge"
    """School science, the hard part."""
    OPENBOOKQA = "openbookqa"
    """Science with common sense (arXiv 1809.02789)."""
