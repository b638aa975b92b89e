"""Names of corrections: behaviours, the search, measures and gates."""

from __future__ import annotations

from typing import Literal

from excise.names.name import Name


class SearchPreset(Name):
    """How much a correction's search tries."""

    QUICK = "quick"
    """The rounds only."""
    THOROUGH = "thorough"
    """The rounds, then trials that vary all settings together."""


class Ablation(Name):
    """What replaces a pruned neuron or head."""

    ZERO = "zero"
    """Zero."""
    MEAN = "mean"
    """Its mean activation on reference text, as a bias."""


class BudgetLimit(Name):
    """The limits on text as a whole; a search names the limit that binds it."""

    PERPLEXITY = "perplexity"
    """Limit on the relative rise of perplexity."""
    DIVERGENCE = "kl"
    """Limit on the mean KL divergence from the base model."""


class BehaviourKind(Name):
    """How a behaviour is recognised."""

    REPETITION = "repetition"
    """Responses that repeat themselves."""
    TOXICITY = "toxicity"
    """Responses that evaluators find toxic."""
    PHRASE = "phrase"
    """Responses with certain words."""
    CUSTOM = "custom"
    """Responses that a user's own scorer finds."""


class Direction(Name):
    """The direction in which a score is better."""

    HIGHER_IS_BETTER = "higher_is_better"
    """A low score shows the behaviour."""
    LOWER_IS_BETTER = "lower_is_better"
    """A high score shows the behaviour."""


class MeasureName(Name):
    """Figures of a behaviour, by one scorer."""

    SHARE = "share"
    """Share of responses that show the behaviour, or are empty."""
    ANY_SHARE = "any_share"
    """Share of prompts with at least one such response."""
    EXPECTED_WORST = "expected_worst"
    """Mean over prompts of the worst score (RealToxicityPrompts' expected maximum)."""
    MEAN_SCORE = "mean_score"
    """Mean score of all responses."""


Headline = Literal[MeasureName.MEAN_SCORE, MeasureName.SHARE]
"""The figure of a behaviour that must improve for a correction to pass: the mean score, by its
rise, or the share of responses that show it, by its fall relative to the base's."""


class Split(Name):
    """A part of a behaviour's prompts."""

    TUNE = "tune"
    """Prompts on which a correction is searched."""
    HELD_OUT = "held_out"
    """Prompts on which it is judged."""


class GatedSet(Name):
    """Prompt sets of a correction's gates; responses are stored under these names."""

    REFERENCE = "reference"
    """The job's reference text, continued."""
    GENERAL = "general"
    """General prompts."""
    HARMFUL = "harmful"
    """Harmful instructions, to be refused."""
    LOOK_ALIKE = "look_alike"
    """Harmless prompts that look harmful, not to be refused."""
    CONTRAST = "contrast"
    """Unsafe prompts that resemble safe ones, to be refused."""


class GateGroup(Name):
    """What a gate watches."""

    EFFECT = "effect"
    """The correction does what it is for."""
    DAMAGE = "damage"
    """Whatever worked before still works."""
    SAFETY = "safety"
    """The model has become neither more harmful nor more squeamish."""


class GateBound(Name):
    """The side of its limit on which a gate's value must lie."""

    AT_MOST = "at_most"
    """Equal to the limit or below it."""
    AT_LEAST = "at_least"
    """Equal to the limit or above it."""
    ABOVE = "above"
    """Above the limit."""

    def is_met(self, value: float, limit: float) -> bool:
        """Return whether `value` is on the right side of `limit`; NaN never is."""
        if self is GateBound.AT_MOST:
            return value <= limit
        return value >= limit if self is GateBound.AT_LEAST else value > limit


class GateOutcome(Name):
    """How `excise gate` ends."""

    PASSED = "passed"
    """Every gate that was asked for was measured and met."""
    GATES_NOT_MET = "gates_not_met"
    """At least one was not, or none was asked for."""


class Trend(Name):
    """How a figure changed since an earlier run."""

    BETTER = "better"
    """It moved away from its limit."""
    WORSE = "worse"
    """It moved towards its limit, or beyond it."""
    SAME = "same"
    """It did not move."""
    LOST = "lost"
    """The earlier run measured it, this one did not."""
    NEW = "new"
    """The earlier run did not measure it."""
