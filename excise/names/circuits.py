"""Names of circuits: tasks, and how components are scored, ordered and ablated."""

from __future__ import annotations

from excise.names.name import Name


class BuiltInTask(Name):
    """Tasks that a circuit job knows by name."""

    IOI = "ioi"
    """Indirect object identification (arXiv 2211.00593)."""
    GREATER_THAN = "greater_than"
    """Years that end later than they began (arXiv 2305.00586)."""


class CircuitMetric(Name):
    """How well a model does a task at a prompt's last position; larger is better."""

    LOGIT_DIFFERENCE = "logit_difference"
    """Mean logit of the answers minus mean logit of the wrong answers."""
    PROBABILITY_DIFFERENCE = "probability_difference"
    """Summed probability of the answers minus that of the wrong answers, in [−1, 1]."""


class CircuitContrast(Name):
    """What an activation is compared with."""

    ZERO = "zero"
    """Nothing: a · gradient, the relevance of arXiv 2506.13727."""
    CORRUPTED = "corrupted"
    """The corrupted prompt at the same position: (a − a′) · gradient.

    With the plain gradient this is attribution patching, with LRP's relevance patching (RelP,
    arXiv 2508.21258); both approximate activation patching to first order.
    """


class CircuitOrder(Name):
    """Which components a circuit takes first."""

    SIGNED = "signed"
    """The largest scores: what speaks for the answer."""
    ABSOLUTE = "absolute"
    """The largest magnitudes: what the answer leans on, for or against."""


class CircuitAblation(Name):
    """What a component outside the circuit is replaced by."""

    COUNTERFACTUAL = "counterfactual"
    """Its activation at the same position of the corrupted prompt: MIB's choice."""
    MEAN = "mean"
    """Its mean activation over all positions of the clean prompts."""
    ZERO = "zero"
    """Zero: what pruning does, and so what the circuit's patch does."""
