"""Two checkpoints, one after the other in memory, measured and judged by one configuration."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from excise.intake.model_sources import ModelSourceError
from excise.reports.common import ModelIdentity
from excise.reports.gate_run import GateReport
from workers.abilities.probe import SliceKind
from workers.commands.gate.base import BaseCheckpoint, BaseMeasurer, Say
from workers.commands.gate.behaviours import build_behaviour_requests
from workers.commands.gate.cache import FigureCache
from workers.commands.gate.config import GateConfig
from workers.commands.gate.contents import read_contents, require_unchanged
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.files import GateFiles
from workers.commands.gate.keys import compute_definition_sha256, compute_measure_sha256
from workers.commands.gate.scorers import build_detectors
from workers.commands.gate.templates import (
    describe_context,
    describe_templates,
    describe_tokens,
    lend_template,
)
from workers.fetching.sources import find_checkpoint
from workers.gates.abilities import compare_states, judge_abilities
from workers.gates.gates import GateRequest, judge_gates
from workers.gates.remedies import add_remedies
from workers.gates.requests import (
    build_behaviour_response_requests,
    build_plan,
    build_requests,
    choose_prompts,
    list_not_asked,
)
from workers.gates.second_look import TIMES_THE_ITEMS, add_figures, draw_more
from workers.measuring.measurement import CheckPlan, PromptSet
from workers.measuring.probes import measure_probes
from workers.models.checkpoints import CheckpointError, load_checkpoint
from workers.models.devices import DTYPES
from workers.models.loaded import LoadedModel
from workers.models.machine import choose_own_dtype
from workers.reports.gate_examples import collect_examples
from workers.reports.gate_run import find_outcome
from workers.reports.token_limits import collect_token_limits
from workers.scorers.detector import Detector
from workers.stages.abilities import find_unknown_slice, list_built_in
from workers.stages.behaviours import build_decoding
from workers.stages.packaging import list_versions


def compare_checkpoints(
    model: str,
    against: str,
    config: GateConfig,
    files: GateFiles,
    device: str,
    say: Say,
    cache: FigureCache | None = None,
) -> GateReport:
    """Return how `model` does beside `against` on the gates of `config`.

    What is measured of `against` is taken from `cache`, or kept there. Raises `GateConfigError`,
    `ScorerError`, `ModelSourceError`, `CheckpointError`, `OSError`, `ChatTemplateError`,
    `UnsupportedArchitectureError`, and `CheckpointChangedError` where the files of one do not stay
    what they were; a gate that cannot be measured is in the report.
    """
    folder, base_folder = _find("--model", model), _find("--against", against)
    chosen = choose_own_dtype(config.dtype, device)
    dtype = DTYPES[chosen]
    kinds = list_built_in(config.behaviours)
    if problem := find_unknown_slice(config.abilities, kinds):
        raise GateConfigError(problem)
    with ExitStack() as resources:
        detectors = build_detectors(config.behaviours, device, resources)
        base_contents = read_contents(base_folder)
        checkpoint = BaseCheckpoint(against, base_folder, base_contents, dtype, device)
        measurer = BaseMeasurer(checkpoint, cache, say)
        base = checkpoint.load()
        plan = _build_plan(config, files, base, detectors, kinds)
        measure_sha256 = compute_measure_sha256(plan, chosen)
        baseline, tokenizer = measurer.measure(plan, base, measure_sha256), base.tokenizer
        context = base.context_length
        del base
        gc.collect()  # so that only what the baseline keeps of it stays beside the next checkpoint
        say(f"measuring {model}")
        contents = read_contents(folder)
        judged = load_checkpoint(folder, dtype, device)
        notes = describe_templates(tokenizer, judged.tokenizer)
        notes += describe_tokens(plan, tokenizer, judged.tokenizer)
        notes += describe_context(context, judged.context_length)
        judged = lend_template(judged, tokenizer)
        state, base_state = baseline.measure(judged), baseline.state
        abilities = compare_states(kinds, base_state, state, {}, config.abilities)
        if more := draw_more(plan.probe_source, abilities):
            say(f"looking again, on {TIMES_THE_ITEMS} times the items, at {', '.join(more)}")
            state = add_figures(state, measure_probes(judged, more))
            del judged
            base_state = add_figures(base_state, measurer.measure_more(more))
            abilities = compare_states(kinds, base_state, state, {}, config.abilities)
    require_unchanged(model, folder, contents)
    checkpoint.require_unchanged()
    gates = judge_gates(_list_requests(config), base_state, state)
    if config.abilities is not None:
        gates.append(judge_abilities(abilities))
    return GateReport(
        outcome=find_outcome(gates),
        model=ModelIdentity(id=model, sha256=contents.weights_sha256),
        against=ModelIdentity(id=against, sha256=base_contents.weights_sha256),
        is_against_cached=measurer.is_from_cache,
        measure_sha256=measure_sha256,
        behaviours_sha256={
            behaviour.name: compute_definition_sha256(behaviour) for behaviour in config.behaviours
        },
        gates=add_remedies(gates, of_job=False),
        abilities=abilities,
        token_limits=collect_token_limits(base_state, state),
        examples=collect_examples(gates, base_state, state),
        notes=notes,
        not_asked=_list_not_asked(config),
        dtype=chosen,
        seed=config.seed,
        versions=list_versions(),
    )


def build_files(config: Path) -> GateFiles:
    """Return what loads the files that the configuration at `config` names."""
    task_data = os.environ.get("EXCISE_TASK_DATA")
    return GateFiles(config.parent, Path(task_data) if task_data else None)


def _find(option: str, name: str) -> Path:
    """Return a checkpoint's folder; of two, an error has to say which."""
    try:
        return find_checkpoint(name)
    except (ModelSourceError, CheckpointError) as error:
        raise type(error)(f"{option} {name}: {error}") from error


def _build_plan(
    config: GateConfig,
    files: GateFiles,
    base: LoadedModel,
    detectors: Mapping[str, Detector],
    kinds: Sequence[SliceKind],
) -> CheckPlan:
    """Return what to measure; every file is read, and refused, before anything is measured."""
    plan = build_plan(
        config,
        base.tokenizer,
        files.load_prompts,
        files.load_rows,
        config.seed,
        kinds,
        longest=base.context_length,
    )
    behaviours: dict[str, PromptSet] = {
        behaviour.name: PromptSet(
            choose_prompts(
                base.tokenizer,
                files.load_prompts(behaviour.prompts),
                behaviour.limit,
                config.seed,
            ),
            build_decoding(behaviour.decoding),
            behaviour.chat,
            config.seed,
        )
        for behaviour in config.behaviours
    }
    return replace(
        plan,
        prompt_sets={**plan.prompt_sets, **behaviours},
        behaviours=detectors,
    )


def _list_requests(config: GateConfig) -> list[GateRequest]:
    requests = build_requests(config)
    for behaviour in config.behaviours:
        requests += build_behaviour_requests(behaviour)
        if config.responses is not None:
            requests += build_behaviour_response_requests(
                config.responses, behaviour.name, behaviour.kind
            )
    return requests


def _list_not_asked(config: GateConfig) -> list[str]:
    others = ("behaviours", "responses")
    return list_not_asked(config) + [name for name in others if not config.asks_for(name)]
