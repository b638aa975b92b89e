"""Names of attribution: components, what relevance is computed by, and what is made of it."""

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
    """Among which components a rank is taken."""

    ROW = "row"
    """Among the weights that write one output feature of one module."""
    LAYER = "layer"
    """Among the components of one module."""
    GLOBAL = "global"
    """Among all components."""


class Attributor(Name):
    """What relevance is computed by."""

    ATTNLRP = "attnlrp"
    """Layer-wise relevance propagation through attention (arXiv 2402.05602)."""
    CP_LRP = "cp_lrp"
    """The same with attention and routing weights as constants: relevance is conserved."""
    GRADIENT_X_INPUT = "gradient_x_input"
    """Plain gradient times input."""
    WANDA = "wanda"
    """Magnitude of the weight times the norm of its input (arXiv 2306.11695)."""
    ACTIVATION = "activation"
    """Mean magnitude of the activation."""
    MAGNITUDE = "magnitude"
    """Magnitude of the weights."""
    RANDOM = "random"
    """Random numbers: what any other attributor has to beat."""

    @property
    def explains(self) -> bool:
        """Whether it explains chosen tokens: the others see all tokens alike, or none."""
        return self in _EXPLAINING

    @property
    def reads_samples(self) -> bool:
        """Whether its relevance depends on the samples."""
        return self not in READ_NO_SAMPLES


_EXPLAINING = frozenset({Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT})


READ_NO_SAMPLES = frozenset({Attributor.MAGNITUDE, Attributor.RANDOM})
"""Attributors whose scores depend on the weights alone, or on nothing."""


class Statistic(Name):
    """Which mean of relevance over tokens is taken."""

    MEAN = "mean"
    """Of signed relevance."""
    MEAN_ABSOLUTE = "mean_absolute"
    """Of its magnitude."""
    MEAN_SQUARE = "mean_square"
    """Of its square."""


class Score(Name):
    """How general and undesired relevance are contrasted."""

    BENEFIT_DAMAGE = "benefit_damage"
    """max(R̄_undesired, 0) / (predicted damage + a floor of 0.05 · mean divergence): see
    `predict_damage` in `workers.pruning.damage`."""
    BENEFIT_COST = "benefit_cost"
    """max(R̄_undesired, 0) / (E|R_general| + a floor of 0.1 · its mean over all components).

    Where no component has any general relevance, max(R̄_undesired, 0).
    """
    SIGNED_DIFFERENCE = "signed_difference"
    """R̄_undesired − R̄_general: Eq. 7 of arXiv 2506.13727 as printed."""
