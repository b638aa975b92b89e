"""The table of gates: one row for every limit of any kind of job and of `excise gate`.

A gate that is computed from two model states needs only its row, its `estimate` and, if it is
about responses, its field in `ResponseLimitsSpec`. For all other gates, an engine provides the
figure.
"""

from __future__ import annotations

from excise.names import GateBound, GatedSet, GateGroup
from workers.gates.rows import (
    LESS,
    Gate,
    Remedy,
    drop_limit,
    relax_length,
    remedy_refusals,
    remedy_responses,
)
from workers.measuring import estimates

_DAMAGE, _SAFETY, _EFFECT = GateGroup.DAMAGE, GateGroup.SAFETY, GateGroup.EFFECT
_AT_MOST, _AT_LEAST, _ABOVE = GateBound.AT_MOST, GateBound.AT_LEAST, GateBound.ABOVE

_OF_STATES = (
    Gate(
        "perplexity", _DAMAGE, "relative", _AT_MOST,
        "the perplexity of the corpus grows by at most this share",
        Remedy(
            "The model predicts the corpus worse than before.",
            "Let the search keep further away from the limit: smaller search.amounts or more "
            "reference text like the corpus; or raise budget.perplexity_increase.",
            "Train less, or on text like the corpus as well; or raise perplexity.max_increase.",
        ),
        estimates.estimate_perplexity_increase,
    ),
    Gate(
        "kl", _DAMAGE, "nats a token", _AT_MOST,
        "the mean KL divergence from the base on reference text is at most this",
        Remedy(
            "The model's predictions on reference text have moved away from the base's.",
            "Let the search keep further away from the limit: smaller search.amounts or more "
            "reference text; or raise budget.kl_mean.",
            "Train less, or on text like the reference as well; or raise kl.max_mean.",
        ),
        estimates.estimate_divergence,
    ),
    Gate(
        "zero_shot", _DAMAGE, "share of questions", _AT_MOST,
        "the share of right answers on {subject} falls by at most this",
        Remedy(
            "The model answers fewer questions of {subject} right.",
            f"{LESS[0].upper()}{LESS[1:]}, or put text of the task's kind into reference; if the "
            "interval is wide, raise the task's limit of questions; or raise its max_drop.",
            "If the interval is wide, raise the task's limit of questions; otherwise train on "
            "text of its kind as well, or raise its max_drop.",
        ),
        estimates.estimate_accuracy_drop,
    ),
    Gate(
        "uniqueness", _DAMAGE, "relative fall", _AT_MOST,
        "responses to {subject} prompts lose at most this share of their mean uniqueness: "
        "the model must not start to loop",
        remedy_responses(
            "Responses repeat words more than before: the model begins to loop, or they have only "
            "become longer (compare the gate longer), and longer texts repeat words by themselves."
        ),
        estimates.estimate_uniqueness_fall, GatedSet.GENERAL, "max_uniqueness_fall",
        on_loops=drop_limit,
    ),
    Gate(
        "self_repetition", _DAMAGE, "share of 4-grams", _AT_MOST,
        "the share of 4-grams that responses to {subject} prompts repeat of themselves rises by "
        "at most this",
        remedy_responses(
            "Responses repeat whole phrases more than before: the model begins to loop."
        ),
        estimates.estimate_self_repetition_rise, GatedSet.GENERAL, "max_self_repetition_rise",
        on_loops=drop_limit,
    ),
    Gate(
        "emptiness", _DAMAGE, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are answered by nothing rises by at most this",
        remedy_responses("The model says nothing where it answered before."),
        estimates.estimate_empty_rise, GatedSet.GENERAL, "max_empty_rise",
    ),
    Gate(
        "shorter", _DAMAGE, "ratio", _AT_LEAST,
        "responses to {subject} prompts keep at least this multiple of their mean length",
        remedy_responses(
            "Responses have become short: what ended a behaviour may have ended the answer."
        ),
        estimates.estimate_length_ratio, GatedSet.GENERAL, "min_length_ratio",
        on_loops=relax_length,
    ),
    Gate(
        "longer", _DAMAGE, "ratio", _AT_MOST,
        "responses to {subject} prompts grow to at most this multiple of their mean length",
        remedy_responses("Responses have become long: the model may no longer find an end."),
        estimates.estimate_length_ratio, GatedSet.GENERAL, "max_length_ratio",
        on_loops=drop_limit,
    ),
    Gate(
        "token_limit", _DAMAGE, "share of prompts", _AT_MOST,
        "the share of responses to {subject} prompts that are cut off at the token limit rises "
        "by at most this",
        remedy_responses(
            "More responses are cut off by the token limit instead of ending by themselves."
        ),
        estimates.estimate_limit_rise, GatedSet.GENERAL, "max_token_limit_rise",
        on_loops=drop_limit,
    ),
    Gate(
        "diversity", _DAMAGE, "relative fall", _AT_MOST,
        "responses to {subject} prompts lose at most this share of their distinct 1-, 2- or "
        "3-grams, whichever fell most",
        remedy_responses(
            "Responses use fewer different words and phrases: they begin to look alike."
        ),
        estimates.estimate_diversity_fall, GatedSet.GENERAL, "max_diversity_fall",
        on_loops=drop_limit,
    ),
    Gate(
        "refusal", _SAFETY, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are refused falls by at most this",
        remedy_refusals("Harmful prompts are refused less often.", "refusal.max_fall"),
        estimates.estimate_refusal_fall, GatedSet.HARMFUL,
    ),
    Gate(
        "over_refusal", _SAFETY, "share of prompts", _AT_MOST,
        "the share of {subject} prompts that are refused, though harmless, rises by at most this",
        remedy_refusals("Harmless prompts are refused more often.", "over_refusal.max_rise"),
        estimates.estimate_refusal_rise, GatedSet.LOOK_ALIKE,
    ),
    Gate(
        "behaviour_share_rise", _EFFECT, "share of responses", _AT_MOST,
        "the share of responses that show {subject} rises by at most this",
        Remedy(
            "More responses show {subject} than before.",
            "Read them; correct the behaviour, or raise the limit.",
            "Read some in gate.md: training may have taught it. Correct it, or raise "
            "max_share_rise.",
        ),
        estimates.estimate_shown_rise,
    ),
    Gate(
        "behaviour_share", _EFFECT, "share of responses", _AT_MOST,
        "at most this share of responses shows {subject}",
        Remedy(
            "Too many responses show {subject}.",
            "Read them; correct the behaviour further, or raise the limit.",
            "Read some in gate.md; correct the checkpoint further, or raise its max_share.",
        ),
        estimates.estimate_shown_share,
    ),
    Gate(
        "behaviour", _EFFECT, "score", _AT_LEAST,
        "the mean score of {subject} improves by at least this; below zero, it may worsen by so "
        "much",
        Remedy(
            "The mean score of {subject} is not as much better as is asked for, or has become "
            "worse.",
            "Read the responses; correct the behaviour further, or lower its min_improvement.",
            "Read the responses; correct or train further, or lower its min_improvement.",
        ),
        estimates.estimate_improvement,
    ),
    Gate(
        "behaviour_significance", _EFFECT, "score", _ABOVE,
        "the 95 % interval of the improvement of {subject} lies above this",
        Remedy(
            "What was gained on {subject} may be chance.",
            "Give more prompts: the interval shrinks with the root of their number.",
        ),
        estimates.estimate_sure_improvement,
    ),
)  # fmt: skip

GATES = {gate.name: gate for gate in _OF_STATES}
"""Name → gate, for all gates that are computed from two model states."""

ABILITIES = Gate(
    "abilities", _DAMAGE, "slices", _AT_MOST,
    "slices of abilities that fall by more than their limits are at most this many",
    Remedy(
        "The model has lost an ability that the base has.",
        f"Protect it: put text that needs it into reference; {LESS}.",
        "Train on text that needs it as well, or raise abilities.max_accuracy_fall or "
        "abilities.max_nats_rise; for one slice, the same under abilities.slices.",
    ),
)  # fmt: skip

_OF_EFFECTS = (
    Gate(
        "effect", _EFFECT, "", _AT_LEAST,
        "{improvement} on held-out prompts, beyond what an equally large random selection does, "
        "is at least this{judges}",
        Remedy(
            "The correction changes {subject} less than is asked for.",
            "If the search stopped at its largest amount, give larger search.amounts; if at the "
            "budget, other granularities or a larger budget; or set min_effect of {subject} to "
            "what you accept.",
        ),
        spoken="{subject}.{name}",
    ),
    Gate(
        "significance", _EFFECT, "", _ABOVE,
        "the 95 % intervals of the held-out improvement, from the base and beyond an equally "
        "large random selection, lie above zero{judges}",
        Remedy(
            "The improvement of {subject} may be chance.",
            "Give more prompts that bring it out: the interval shrinks with the root of their "
            "number.",
        ),
        spoken="{subject}.{name}",
    ),
    Gate(
        "better_than_random", _EFFECT, "", _ABOVE,
        "the 95 % interval of the lead over an equally large random selection lies above "
        "zero{judges}",
        Remedy(
            "Pruning as many random components does nearly as much to {subject}.",
            "Give more prompts that bring it out, or larger search.amounts; if the control itself "
            "improves much, the prompts only barely show {subject}.",
        ),
        spoken="{subject}.{name}",
    ),
    Gate(
        "held_out_prompts", _EFFECT, "", _AT_LEAST,
        "at least this many held-out prompts bring the behaviour out",
        Remedy(
            "Too few held-out prompts bring {subject} out for a verdict.",
            "Give more prompts: half of those that bring it out are held out.",
        ),
        spoken="{subject}.{name}",
    ),
    Gate(
        "remaining", _EFFECT, "share of responses", _AT_MOST,
        "at most this share of held-out responses still shows {behaviour}",
        Remedy(
            "Too many responses still show {subject}.",
            "Give larger search.amounts, a larger budget or more prompts to learn from; or set "
            "max_remaining of {subject} to what you accept, null for no limit.",
        ),
    ),
)  # fmt: skip

EFFECT_GATES = {gate.name: gate for gate in _OF_EFFECTS}
"""Name → gate, for the gates on what a correction did to each behaviour."""

RETENTION = Gate(
    "retention", _EFFECT, "share of the metric", _AT_LEAST,
    "the circuit keeps this share of the model's metric on held-out rows",
    Remedy(
        "The circuit lost too much on rows that took no part in finding it.",
        "Give more rows, so that it is found and sized on more, another attributor, or a lower "
        "threshold",
    ),
)  # fmt: skip
"""The gate on how much of the task a circuit keeps."""

SIZE = Gate(
    "size", _EFFECT, "share of components", _AT_MOST,
    "the circuit is at most this share of all components",
    Remedy(
        "No small part of the model carries the task by this attributor.",
        "Give another attributor or granularity, a lower threshold, or a larger max_share",
    ),
)  # fmt: skip
"""The gate on a circuit's size."""

COMPRESSED_PERPLEXITY = Gate(
    "perplexity", _DAMAGE, "relative", _AT_MOST,
    "perplexity rises by at most this share",
    Remedy(
        "The compressed model predicts the corpus worse than allowed.",
        "Give a lower sparsity, a calibration set like the corpus, or another method; or raise "
        "budget.perplexity_increase",
    ),
)  # fmt: skip
"""The gate on a compression's perplexity. A correction's is computed window by window, in pairs."""

NOT_WORSE = Gate(
    "not_worse", _DAMAGE, "", _AT_MOST,
    "at most this many figures are clearly worse than the earlier run's, or no longer measured",
    Remedy(
        "The checkpoint does worse than the one that the earlier run judged.",
        "",
        "Look at the figures that are named: train less, or on such texts as well. If the loss is "
        "meant, judge once without --fail-if-worse and take that run as the next baseline.",
    ),
)  # fmt: skip
"""The gate that compares a run of `excise gate` with an earlier one."""
