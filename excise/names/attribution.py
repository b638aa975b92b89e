"""Names of attribution: components, attributors, statistics of relevance, and scores."""

from __future__ import annotations

from excise.names.name import Name


class Granularity(Name):
    """What one component is."""

    NEURON = "neuron"
    """One MLP neuron: a feature of the down projection's input."""
    HEAD = "head"
    """One attention head: a slice of the attention output projection's input."""
    WEIGHT = "weight"
    """One entry of a linear module's weight matrix."""


class Scope(Name):
    """The components among which one is ranked."""

    ROW = "row"
    """The weights of one output feature of one module."""
    LAYER = "layer"
    """The components of one module."""
    GLOBAL = "global"
    """All components."""


class Attributor(Name):
    """The method that computes relevance."""

    ATTNLRP = "attnlrp"
    """Layer-wise relevance propagation through attention (arXiv 2402.05602)."""
    CP_LRP = "cp_lrp"
    """The same with attention and routing weights held constant, so that relevance is conserved."""
    GRADIENT_X_INPUT = "gradient_x_input"
    """Plain gradient times input."""
    WANDA = "wanda"
    """Magnitude of the weight times the norm of its input (arXiv 2306.11695)."""
    ACTIVATION = "activation"
    """Mean magnitude of the activation."""
    MAGNITUDE = "magnitude"
    """Magnitude of the weights."""
    RANDOM = "random"
    """Random numbers, the baseline that any other attributor must beat."""

    @property
    def explains(self) -> bool:
        """Whether it explains chosen tokens; the others treat all tokens alike, or read none."""
        return self in _EXPLAINING

    @property
    def reads_samples(self) -> bool:
        """Whether its relevance depends on the samples."""
        return self not in READ_NO_SAMPLES


_EXPLAINING = frozenset({Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT})


READ_NO_SAMPLES = frozenset({Attributor.MAGNITUDE, Attributor.RANDOM})
"""Attributors whose scores depend on the weights alone, or on nothing."""


class Statistic(Name):
    """The mean over tokens that is taken."""

    MEAN = "mean"
    """Mean of signed relevance."""
    MEAN_ABSOLUTE = "mean_absolute"
    """Mean of the magnitude of relevance."""
    MEAN_SQUARE = "mean_square"
    """Mean of the square of relevance."""


class Score(Name):
    """How relevance for general and for undesired text are contrasted."""

    BENEFIT_DAMAGE = "benefit_damage"
    """max(R̄_undesired, 0) / (predicted damage + a floor of 0.05 · mean divergence): see
    `predict_damage` in `workers.pruning.damage`."""
    BENEFIT_COST = "benefit_cost"
    """max(R̄_undesired, 0) / (E|R_general| + a floor of 0.1 · its mean over all components).

    If no component has any general relevance, it is max(R̄_undesired, 0).
    """
    SIGNED_DIFFERENCE = "signed_difference"
    """R̄_undesired − R̄_general: Eq. 7 of arXiv 2506.13727 as printed."""
