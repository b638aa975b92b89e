"""Which abilities a job's spec asks about, and which of them its search must preserve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from excise.names import BehaviourKind
from excise.specs.abilities import AbilitiesGateSpec, ProtectSpec
from excise.specs.behaviours import BehaviourDefinition, PhraseDefinition
from workers.abilities.catalogue import SLICES, VERDICT_ITEMS
from workers.abilities.neighbourhoods import kinds_for
from workers.abilities.probe import SliceKind
from workers.abilities.real_text import build_real_kind, load_real_slices
from workers.abilities.source import Purpose
from workers.correction.protection import protect_slices, protect_texts
from workers.correction.results import ProtectedSlice, SliceDamage
from workers.stages.context import InvalidInputError
from workers.stages.inputs import CorrectionInputs

UNLIMITED = 1e9
"""Stands for "no limit", where infinity cannot be stored."""


def list_kinds(inputs: CorrectionInputs) -> tuple[SliceKind, ...]:
    """Return the slices that every model has, and those near the job's behaviours."""
    return list_built_in(inputs.spec.behaviours)


def list_built_in(specs: Sequence[BehaviourDefinition]) -> tuple[SliceKind, ...]:
    """Return the slices that every model has, and those near the given behaviours."""
    phrases = [spec for spec in specs if isinstance(spec, PhraseDefinition)]
    return SLICES + kinds_for(
        {str(getattr(spec, "kind", "")) for spec in specs},
        [text for spec in phrases for text in spec.phrases or ()],
        [spec.pattern for spec in phrases if spec.pattern is not None],
    )


def list_verdict_kinds(inputs: CorrectionInputs) -> tuple[SliceKind, ...]:
    """Return the same slices; for toxicity, those with this worker's own real text.

    This way, the gap between groups named in real text gets a figure, too. The search uses only the
    built-in sentences.
    """
    kinds = list_kinds(inputs)
    if BehaviourKind.TOXICITY not in {spec.kind for spec in inputs.spec.behaviours}:
        return kinds
    folder, seed = inputs.task_data, inputs.spec.seed
    found = load_real_slices(folder, Purpose.VERDICT, seed, VERDICT_ITEMS)
    return kinds + tuple(build_real_kind(name, probes) for name, probes in found.items())


def check_slice_names(inputs: CorrectionInputs) -> None:
    """Raise `InvalidInputError` if the spec limits a slice that does not exist."""
    if problem := find_unknown_slice(inputs.spec.gates.abilities, list_verdict_kinds(inputs)):
        raise InvalidInputError(f"gates.{problem}")


def find_unknown_slice(gate: AbilitiesGateSpec | None, kinds: Iterable[SliceKind]) -> str:
    """Return an error message if the gate limits a slice that is not among `kinds`; else ""."""
    names = {kind.name for kind in kinds}
    unknown = [] if gate is None else sorted(gate.slices.keys() - names)
    if not unknown:
        return ""
    return (
        f"abilities.slices names {unknown[0]}, which is no slice. Name one of: "
        f"{', '.join(sorted(names))}"
    )


def protect(inputs: CorrectionInputs) -> tuple[ProtectedSlice, ...]:
    """Return what the search must preserve besides the reference text.

    Raises `InvalidInputError` if one of the team's own sets is too small, or has the name of a
    built-in slice.
    """
    check_slice_names(inputs)
    asked = inputs.spec.protect
    if asked is None:
        return ()
    _check_set_names(inputs, asked)
    tokenizer = inputs.base.tokenizer
    built_in: tuple[ProtectedSlice, ...] = ()
    if asked.abilities:
        gate = inputs.spec.gates.abilities or AbilitiesGateSpec()
        kinds = list_kinds(inputs)
        limits = {kind.name: _limit(gate, kind.name) for kind in kinds}
        longest = inputs.base.context_length
        built_in = protect_slices(tokenizer, inputs.spec.seed, kinds, limits, longest)
    try:
        own = tuple(
            protect_texts(tokenizer, item.name, inputs.prompts(item.prompts), item.max_nats_rise)
            for item in asked.sets
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    return built_in + own


def _check_set_names(inputs: CorrectionInputs, asked: ProtectSpec) -> None:
    """Raise if a set has the name of a built-in slice, because figures are stored by name."""
    built_in = {kind.name for kind in list_kinds(inputs)}
    if taken := sorted(built_in & {item.name for item in asked.sets}):
        raise InvalidInputError(
            f"protect.sets has the name {taken[0]}, which a built-in slice has. Use another name."
        )


def describe_protection(inputs: CorrectionInputs) -> dict[str, Any] | None:
    """Return the values on which the protection depends, with sets given by content."""
    asked = inputs.spec.protect
    if asked is None:
        return None
    gate = inputs.spec.gates.abilities
    return {
        **asked.model_dump(mode="json"),
        "sets": [
            [item.name, inputs.prompt_set(item.prompts).sha256, item.max_nats_rise]
            for item in asked.sets
        ],
        "limits": None if gate is None else gate.model_dump(mode="json"),
    }


def _limit(gate: AbilitiesGateSpec, name: str) -> SliceDamage:
    limits = gate.limits_of(name)
    rise, fall = limits.max_nats_rise, limits.max_accuracy_fall
    return SliceDamage(
        nats_rise=UNLIMITED if rise is None else rise,
        accuracy_fall=UNLIMITED if fall is None else fall,
    )
