"""Names of circuits: tasks, and how components are scored, ordered and ablated."""

from __future__ import annotations

from excise.names.name import Name


class BuiltInTask(Name):
    """Tasks that are built in, by name."""

    IOI = "ioi"
    """Indirect object identification (arXiv 2211.00593)."""
    GREATER_THAN = "greater_than"
    """Spans of years that end later than they begin (arXiv 2305.00586)."""


class CircuitMetric(Name):
    """How well a model does a task at a prompt's last position; larger is better."""

    LOGIT_DIFFERENCE = "logit_difference"
    """Mean logit of the answers minus mean logit of the wrong answers."""
    PROBABILITY_DIFFERENCE = "probability_difference"
    """Summed probability of the answers minus that of the wrong answers, in [−1, 1]."""


class CircuitContrast(Name):
    """The activation that another is compared with."""

    ZERO = "zero"
    """Zero: a · gradient, the relevance of arXiv 2506.13727."""
    CORRUPTED = "corrupted"
    """That on the corrupted prompt at the same position, a′: (a − a′) · gradient.

    With the plain gradient this is attribution patching, with LRP it is relevance patching (RelP,
    arXiv 2508.21258); both approximate activation patching to first order.
    """


class CircuitOrder(Name):
    """The order in which a circuit takes components."""

    SIGNED = "signed"
    """Largest scores first: components that act in favour of the answer."""
    ABSOLUTE = "absolute"
    """Largest magnitudes first: components that affect the answer, for or against."""


class CircuitAblation(Name):
    """What replaces a component outside the circuit."""

    COUNTERFACTUAL = "counterfactual"
    """Its activation at the same position of the corrupted prompt, as in MIB."""
    MEAN = "mean"
    """Its mean activation over all positions of the clean prompts."""
    ZERO = "zero"
    """Zero, as in pruning and therefore in the circuit's patch."""
