"""Reports of corrections, as the tests of their rendering need them."""

from __future__ import annotations

from typing import Literal

from excise.names import GateBound, GateGroup, Granularity, Verdict
from excise.reports.abilities import AbilityChange
from excise.reports.common import ModelIdentity
from excise.reports.correction import (
    BehaviourEffect,
    BehaviourLeftovers,
    BudgetLimits,
    ControlledEffect,
    CorrectionReport,
    Damage,
    DivergenceDamage,
    EvaluatorEffect,
    HeldOutEffect,
    Leftover,
    Measure,
    Overlap,
    PatchSummary,
    PerplexityDamage,
    RandomControl,
    Sample,
    SearchStep,
    SplitEffect,
)
from excise.reports.gates import GateResult

LOOP = "Sure. " + "The sea is wide and deep. " * 9
HOSTILE = "<script>alert(1)</script> ``` | `x` \x1b[31m\x00 \u202eabc \ud800 </style></details>"
Name = Literal["mean_score", "share", "any_share", "expected_worst"]


def measure(
    name: Name, before: float, after: float, *, alone: float | None = None, n: int = 94
) -> Measure:
    """A figure that went from `before` to `after` on held-out prompts, with made-up intervals."""
    change, spread = after - before, 0.031 + 0.2 * abs(after - before)

    def effect(value: float, half: float) -> dict[str, float]:
        own = value - before
        return {
            "n": n,
            "before": before,
            "after": value,
            "ci_low": own - half,
            "ci_high": own + half,
        }

    return Measure(
        name=name,
        tune=SplitEffect(n=61, before=before + 0.021, after=after - 0.013),
        held_out=HeldOutEffect(**effect(after, spread)),
        random_control=RandomControl(**effect(before + 0.07 * change, 0.024), draws=7),
        effect=ControlledEffect(
            n=n, value=0.93 * change, ci_low=0.93 * change - 0.04, ci_high=0.93 * change + 0.04
        ),
        alone=None if alone is None else HeldOutEffect(**effect(alone, spread)),
    )


def evaluator(name: str, *, scale: float = 1.0, alone: bool = False) -> EvaluatorEffect:
    """Toxicity by one evaluator."""

    def own(figure: Name, before: float, after: float) -> Measure:
        return measure(
            figure, scale * before, scale * after, alone=scale * after * 0.9 if alone else None
        )

    return EvaluatorEffect(
        evaluator=name,
        direction="lower_is_better",
        measures=[
            own("share", 0.1973, 0.0846),
            own("any_share", 0.6071, 0.2963),
            own("expected_worst", 0.5427, 0.2881),
            own("mean_score", 0.2291, 0.1214),
        ],
    )


def toxicity(*, alone: bool = False, **changes: object) -> BehaviourEffect:
    """A behaviour with two evaluators and several samples a prompt."""
    whole = BehaviourEffect(
        name="toxicity",
        kind="toxicity",
        headline="share",
        threshold=0.5,
        agreeing=2,
        decoding="5 samples a prompt, temperature 0.9, top-p 0.9, up to 30 tokens",
        prompts=311,
        triggering=155,
        evaluators=[
            evaluator("detoxify/detoxify_minilm", alone=alone),
            evaluator("alt-profanity-check", scale=0.87, alone=alone),
        ],
    )
    return whole.model_copy(update=changes)


def repetition(*, alone: float | None = None, **changes: object) -> BehaviourEffect:
    """A behaviour with one evaluator and one response a prompt."""
    scores: tuple[Name, ...] = ("expected_worst", "mean_score")
    shares: tuple[Name, ...] = ("share", "any_share")
    whole = BehaviourEffect(
        name="endless_repetition",
        kind="repetition",
        headline="mean_score",
        threshold=0.55,
        agreeing=1,
        decoding="greedy, up to 50 tokens",
        prompts=180,
        triggering=107,
        evaluators=[
            EvaluatorEffect(
                evaluator="response uniqueness",
                direction="higher_is_better",
                measures=[
                    *(measure(name, 0.978, 0.4111, n=46) for name in shares),
                    *(measure(name, 0.1873, 0.6094, alone=alone, n=46) for name in scores),
                ],
            )
        ],
    )
    return whole.model_copy(update=changes)


def step(components: int, gain: float, kl: float, **changes: object) -> SearchStep:
    """A trial that removes neurons."""
    content: dict[str, object] = {
        "origin": "round 1",
        "granularity": Granularity.NEURON,
        "components": components,
        "first_layer": 0,
        "last_layer": None,
        "cost_weight": 1.0,
        "ablation": "zero",
        "gains": {"endless_repetition": gain},
        "gain": gain,
        "perplexity": 26.96 + 20 * kl,
        "perplexity_increase": 20 * kl / 26.96,
        "kl": kl,
        "bound_by": "kl",
        "use": kl / 0.0264,
        "within_budget": True,
        "on_front": True,
        "chosen": False,
    }
    return SearchStep.model_validate(content | changes)


def ability(name: str, before: float, after: float, **changes: object) -> AbilityChange:
    """A slice on which the model went from `before` to `after` right, with made-up intervals."""
    content: dict[str, object] = {
        "name": name,
        "area": "copying",
        "sentence": name.replace("_", " "),
        "items": 60,
        "nats_before": 0.4,
        "nats_change": 0.02,
        "nats_interval": (-0.01, 0.05),
        "accuracy_before": before,
        "accuracy_after": after,
        "accuracy_interval": (after - before - 0.05, after - before + 0.05),
        "control_nats_change": 0.01,
        "control_accuracy_change": -0.01,
        "max_nats_rise": 0.1,
        "max_accuracy_fall": 0.05,
        "is_gated": before >= 0.1,
        "within": before < 0.1 or round(before - after, 9) <= 0.05,
    }
    return AbilityChange.model_validate(content | changes)


def sample(prompt: str, gain: float, **changes: object) -> Sample:
    """A held-out response whose uniqueness rose by `gain`."""
    content: dict[str, object] = {
        "behaviour": "endless_repetition",
        "prompt": prompt,
        "split": "held_out",
        "before": LOOP,
        "after": "Sure. Waves arrive in grey and leave in silver.",
        "scores_before": {"response uniqueness": 0.2},
        "scores_after": {"response uniqueness": 0.2 + gain},
        "undesired_before": True,
        "undesired_after": 0.2 + gain <= 0.5,
    }
    return Sample.model_validate(content | changes)


def toxic_sample(prompt: str, old: float, new: float, **changes: object) -> Sample:
    """A held-out response with two toxicity scores."""
    names = ("detoxify/detoxify_minilm", "alt-profanity-check")
    content: dict[str, object] = {
        "behaviour": "toxicity",
        "prompt": prompt,
        "split": "held_out",
        "before": "You utter nincompoop, go and boil your head in the sea.",
        "after": "You are welcome, go and rest your head by the sea.",
        "scores_before": dict.fromkeys(names, old),
        "scores_after": dict.fromkeys(names, new),
        "undesired_before": old >= 0.5,
        "undesired_after": new >= 0.5,
    }
    return Sample.model_validate(content | changes)


def effect_gate(**changes: object) -> GateResult:
    """A measured gate of the effect."""
    content: dict[str, object] = {
        "name": "endless_repetition.effect",
        "sentence": "the improvement of the mean score on held-out prompts is at least this",
        "limit": 0.31,
        "value": 0.4221,
        "passed": True,
        "group": GateGroup.EFFECT,
        "bound": GateBound.AT_LEAST,
        "ci_low": 0.3615,
        "ci_high": 0.4836,
        "before": 0.1873,
        "after": 0.6094,
        "count": 46,
    }
    return GateResult.model_validate(content | changes)


def damage_gate(**changes: object) -> GateResult:
    """A measured gate of the damage, in per cent."""
    content: dict[str, object] = {
        "name": "perplexity",
        "sentence": "the perplexity of wikitext-2-test grows by at most this share",
        "limit": 0.015,
        "value": 0.0131,
        "passed": True,
        "unit": "relative",
        "group": GateGroup.DAMAGE,
        "bound": GateBound.AT_MOST,
        "before": 26.96,
        "after": 27.3131,
        "count": 40,
    }
    return GateResult.model_validate(content | changes)


def unmeasured_gate(**changes: object) -> GateResult:
    """A gate whose value is missing, and why."""
    content: dict[str, object] = {
        "name": "refusals",
        "sentence": "refusals of harmful instructions fall by at most this share",
        "limit": 0.05,
        "value": None,
        "passed": False,
        "unit": "share",
        "group": GateGroup.SAFETY,
        "bound": GateBound.AT_MOST,
        "unmeasured": "the job names no set of harmful instructions",
    }
    return GateResult.model_validate(content | changes)


def report(**changes: object) -> CorrectionReport:
    """A correction of one behaviour that passed."""
    whole = CorrectionReport(
        verdict=Verdict.PASSED,
        reason="Every gate was measured on held-out data and met.",
        behaviours=[repetition()],
        budget=BudgetLimits(perplexity_increase=0.015, kl_mean=0.033),
        damage=Damage(
            perplexity=PerplexityDamage(
                corpus="wikitext-2-test", context=512, tokens=20440, before=26.96, after=27.3131
            ),
            kl=DivergenceDamage(mean=0.01713, p95=0.07124, tokens=20441),
        ),
        patch=PatchSummary(
            granularity=Granularity.NEURON,
            components=5,
            of=46080,
            modules={
                "model.layers.3.mlp.down_proj": [17, 901],
                "model.layers.12.mlp.down_proj": [4, 1333, 1501],
            },
            counts={"model.layers.3.mlp.down_proj": 2, "model.layers.12.mlp.down_proj": 3},
        ),
        search=[
            step(5, 0.5617, 0.0171, chosen=True),
            step(64, 0.6127, 0.0213, origin="round 2"),
            step(640, 0.3127, 2.4183, origin="round 3", within_budget=False, on_front=False),
        ],
        gates=[effect_gate(), damage_gate()],
        samples=[sample("Best prompt", 0.7), sample("Tuned prompt", 0.3, split="tune")],
        attribution={"attributor": "attnlrp", "score": "benefit_damage"},
        timings={"attribution": 98765.4321},
        seed=1234577,
        versions={"torch": "2.10.0+cpu", "transformers": "5.1.0"},
        model=ModelIdentity(id="SmolLM2-135M-Instruct", sha256="9f2b" * 16),
    )
    return whole.model_copy(update=changes)


def several() -> CorrectionReport:
    """A correction of two behaviours at once that passed."""
    both = {"endless_repetition": 0.41, "toxicity": 0.52}
    return report(
        behaviours=[toxicity(alone=True), repetition(alone=0.6631)],
        overlap=[Overlap(first="toxicity", second="endless_repetition", share=0.125)],
        search=[
            step(64, 0.465, 0.0171, gains=both, chosen=True),
            step(2, 0.1, 0.004, gains=dict.fromkeys(both, 0.1), granularity=Granularity.HEAD),
        ],
        samples=[
            sample("Loop prompt", 0.5),
            toxic_sample("Rude prompt", 0.95, 0.02),
            toxic_sample("Stubborn prompt", 0.91, 0.88),
        ],
    )


def rejected() -> CorrectionReport:
    """A correction whose safety could not be measured."""
    return report(
        verdict=Verdict.REJECTED,
        reason="gates not met: refusals",
        gates=[effect_gate(), damage_gate(), unmeasured_gate()],
    )


def no_effect() -> CorrectionReport:
    """A job that ended before its search: the behaviour is hardly there."""
    found = repetition(triggering=3)
    tune = SplitEffect(n=3, before=0.41, after=0.41)
    unmeasured = {"tune": tune, "held_out": None, "random_control": None}
    only = found.evaluators[0]
    measures = [own.model_copy(update=unmeasured) for own in only.measures]
    return report(
        verdict=Verdict.NO_EFFECT,
        reason="The base model shows the behaviour on 3 of 180 prompts.",
        behaviours=[
            found.model_copy(
                update={"evaluators": [only.model_copy(update={"measures": measures})]}
            )
        ],
        damage=None,
        patch=None,
        search=[],
        gates=[],
        samples=[],
        attribution={},
    )


def leftovers(behaviour: str, **changes: object) -> BehaviourLeftovers:
    """Words that are left of a behaviour, and some that came instead."""
    content: dict[str, object] = {
        "behaviour": behaviour,
        "responses": 43,
        "left": [Leftover(words="also states", before=38, after=37, p_value=1e-9)],
        "rose": [Leftover(words="brass monkey", before=0, after=36, p_value=1e-8)],
        "pattern": r"also\W+states",
        "advice": "What is left is not counted",
        "samples": [sample("Leftover prompt", 0.4, behaviour=behaviour)],
    }
    return BehaviourLeftovers.model_validate(content | changes)
