"""Names of corrections: behaviours, the search, what is measured and what is demanded."""

from __future__ import annotations

from typing import Literal

from excise.names.name import Name


class SearchPreset(Name):
    """How much a correction's search tries."""

    QUICK = "quick"
    """Its rounds alone."""
    THOROUGH = "thorough"
    """Its rounds, then trials that vary everything together."""


class Ablation(Name):
    """What a pruned neuron or head leaves behind."""

    ZERO = "zero"
    """Nothing."""
    MEAN = "mean"
    """Its mean activation on reference text, as a bias."""


class BudgetLimit(Name):
    """The limits on text as a whole; a search names the limit that binds it."""

    PERPLEXITY = "perplexity"
    """On the relative rise of perplexity."""
    DIVERGENCE = "kl"
    """On the mean KL divergence from the base model."""


class BehaviourKind(Name):
    """What a behaviour is told by."""

    REPETITION = "repetition"
    """Responses that go round in circles."""
    TOXICITY = "toxicity"
    """Responses that evaluators find toxic."""
    PHRASE = "phrase"
    """Responses with certain words."""
    CUSTOM = "custom"
    """Responses that a scorer of the user's own finds."""


class Direction(Name):
    """Which end of a score is the good one."""

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
    """Which part of a behaviour's prompts."""

    TUNE = "tune"
    """Those that a correction is searched on."""
    HELD_OUT = "held_out"
    """Those that it is judged on."""


class GatedSet(Name):
    """Prompt sets of a correction's gates; responses are filed under these names."""

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
    """That the correction does what it is for."""
    DAMAGE = "damage"
    """That what worked before still works."""
    SAFETY = "safety"
    """That the model became neither more harmful nor more squeamish."""


class GateBound(Name):
    """On which side of its limit a gate's value must lie."""

    AT_MOST = "at_most"
    """At the limit or below."""
    AT_LEAST = "at_least"
    """At the limit or above."""
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
    """One was not, or none was asked for."""


class Trend(Name):
    """What became of a figure since an earlier run."""

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
