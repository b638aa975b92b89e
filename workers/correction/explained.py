"""Choosing which responses of a behaviour are explained, and by which target."""

from __future__ import annotations

from dataclasses import dataclass

from excise.names import Attributor
from workers.attribution.targets import TokenMass
from workers.correction.behaviour import Behaviour, Marking
from workers.correction.measurement import build_sample, collect_base_undesired, collect_clean
from workers.correction.results import ExplainedResponses, PreparedBehaviour, PromptOutcome
from workers.correction.vocabulary import choose_by_mass, learn_token_mass
from workers.domain import TokenSequence
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

MOST_EXPLAINED = 256
"""Largest number of responses explained by token mass: those with the most of it. Chosen by
hand."""


@dataclass(frozen=True)
class Explained:
    """The samples of one behaviour's attribution."""

    undesired: tuple[TokenSequence, ...]
    clean: tuple[TokenSequence, ...]
    """Clean responses to contrast with the undesired ones; empty if that makes no sense."""
    mass: TokenMass | None
    """The target that is explained instead of the emitted tokens, if there is one."""


def collect_explained(
    behaviour: Behaviour, prepared: PreparedBehaviour, attributor: Attributor
) -> Explained:
    """Return the tuning responses that an attributor explains, and the target.

    A gradient attributor explains the probability of the undesired tokens if single tokens make
    responses undesired, and the emitted tokens otherwise. Other attributors have no target; for
    them, relevance on clean responses is subtracted from relevance on undesired ones.
    """
    tune = prepared.triggering(held_out=False)
    own = prepared.explained
    if own is not None and attributor.explains:
        samples = tuple(
            TokenSequence(prompt_ids, response_ids) for prompt_ids, response_ids in own.samples
        )
        return Explained(samples, (), TokenMass(own.token_ids, own.weights))
    undesired = collect_base_undesired(behaviour, tune)
    clean = collect_clean(behaviour, tune, len(undesired)) if attributor.reads_samples else ()
    return Explained(undesired, clean, None)


def choose_explained(
    base: LoadedModel,
    behaviour: Behaviour,
    prompts: tuple[PromptOutcome, ...],
    advance: Advance = ignore,
) -> ExplainedResponses | None:
    """Return the undesired tokens of a behaviour, and the tuning responses to explain by them.

    None for repetition, which no single token makes, and where no token is telling enough.
    `advance` is called with the number of responses read.
    """
    if behaviour.marking is not Marking.RISING:
        return None
    tune = [outcome for outcome in prompts if not outcome.held_out]
    mass = learn_token_mass(response for outcome in tune for response in outcome.drawn)
    if mass is None:
        return None
    samples = [
        build_sample(outcome.prompt_ids, response)
        for outcome in tune
        if outcome.triggering
        for response in outcome.drawn
        if response.answer_ids
    ]
    chosen = choose_by_mass(base, samples, mass, MOST_EXPLAINED, advance)
    return ExplainedResponses(
        token_ids=mass.token_ids,
        weights=mass.weights,
        samples=tuple((sample.prompt_ids, sample.response_ids) for sample in chosen),
    )
