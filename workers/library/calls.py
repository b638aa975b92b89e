"""The library's calls: `correct`, `estimate`, `find_circuit`, `compress` and `apply`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from pydantic import ValidationError
from transformers import PreTrainedModel

from excise.behaviours import LocalBehaviour, list_entries
from excise.estimates.estimate import Estimate, Question
from excise.estimates.estimate import estimate as estimate_on
from excise.estimates.prompts import JobSets
from excise.estimates.shape import ModelShape
from excise.intake.local_files import MAX_PATCH_BYTES, read_file
from excise.names import JobFile
from excise.reports.circuit import CircuitReport
from excise.reports.common import JobReport
from excise.reports.compression import CompressionReport
from excise.reports.correction import CorrectionReport
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from workers.kinds.circuit.pipeline import run_circuit
from workers.kinds.compression.pipeline import run_compression
from workers.kinds.correction.pipeline import run_correction
from workers.library.checkpoint import Given, OpenCheckpoint, open_checkpoint
from workers.library.checks import check_inputs, list_behaviours, note_unknown_settings
from workers.library.context import MemoryContext, listening
from workers.library.inputs import CircuitCallInputs, CompressionCallInputs, CorrectionCallInputs
from workers.library.modes import plain_torch
from workers.library.outcome import CHECKPOINT_FOLDER, Outcome, ReportT
from workers.library.sets import Sets
from workers.models.machine import measure_machine
from workers.pruning.patch import Patch, apply_patch, parse_patch, require_passed

Texts = Sequence[str]
Settings = Any
"""A field of the job spec, as described in the guides; instead of a set's id, the list itself."""

_Spec = TypeVar("_Spec", CorrectionSpec, CircuitSpec, CompressionSpec)


@plain_torch()
def correct(
    model: Given,
    behaviours: Sequence[LocalBehaviour | Mapping[str, Any]],
    reference: Texts,
    *,
    tokenizer: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    shows_progress: bool = True,
    **settings: Settings,
) -> Outcome[CorrectionReport]:
    """Find the components behind `behaviours`, prune them, and measure what else changed.

    `model` is a checkpoint's folder, a name that `excise models fetch` knows, or a loaded model
    with its `tokenizer`; it is not modified. `behaviours` (such as `excise.Repetition`) say what to
    remove, with prompts that bring it out. `reference` is ordinary text that must keep working.
    `settings` are the other fields of a correction's spec (docs/guides/corrections.md): seed,
    attribution, search, budget, gates, protect, perplexity.

    Returns report, patch and the corrected model. Raises pydantic's `ValidationError` for wrong
    settings, `InvalidInputError` for too few prompts or texts, `TypeError` for a single text or
    behaviour instead of a list, `CheckpointError` and `ModelSourceError`.
    """
    checkpoint = open_checkpoint(model, tokenizer, dtype=dtype, device=device)
    spec, sets = _ask(checkpoint, behaviours, reference, settings)
    with ExitStack() as resources:
        inputs = CorrectionCallInputs(checkpoint, sets, spec, resources)
        return _run(
            lambda context: run_correction(context, inputs),
            CorrectionReport,
            checkpoint,
            shows_progress,
        )


@plain_torch()
def estimate(
    model: Given,
    behaviours: Sequence[LocalBehaviour | Mapping[str, Any]],
    reference: Texts,
    *,
    tokenizer: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    **settings: Settings,
) -> Estimate:
    """Return what `correct` with these arguments needs on this machine, which it measures.

    `print` it for memory, minutes of each stage and cheaper settings. Nothing is loaded, except a
    model that is loaded already. Raises the same errors as `correct`, and `ShapeError` for a
    checkpoint whose config.json lacks a size.
    """
    checkpoint = open_checkpoint(model, tokenizer, dtype=dtype, device=device)
    spec, sets = _ask(checkpoint, behaviours, reference, settings)
    config = json.loads((checkpoint.folder / "config.json").read_bytes())
    sizes = JobSets(
        [sets.measure(behaviour.prompts) for behaviour in spec.behaviours],
        sets.measure(spec.reference),
        None if spec.perplexity is None else sets.measure(spec.perplexity.prompts),
    )
    question = Question(spec, ModelShape.of(config), sizes)
    return estimate_on(question, measure_machine(checkpoint.device))


@plain_torch()
def find_circuit(
    model: Given,
    task: str | Sequence[Mapping[str, str]] = "ioi",
    *,
    tokenizer: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    shows_progress: bool = True,
    **settings: Settings,
) -> Outcome[CircuitReport]:
    """Find the components that carry a task, and measure how much of it they keep on their own.

    `task` is `ioi`, `greater_than`, or a list of rows with clean, corrupted, answer and wrong.
    `settings` are the other fields of a circuit's spec (docs/guides/circuits.md). Other arguments
    and errors are those of `correct`.
    """
    checkpoint = open_checkpoint(model, tokenizer, dtype=dtype, device=device)
    spec, sets = _build_spec(CircuitSpec, "circuit", checkpoint, {**settings, "task": task})
    inputs = CircuitCallInputs(checkpoint, sets, spec)
    return _run(
        lambda context: run_circuit(context, inputs), CircuitReport, checkpoint, shows_progress
    )


@plain_torch()
def compress(
    model: Given,
    calibration: Texts | Mapping[str, Any],
    perplexity: Texts | Mapping[str, Any],
    *,
    tokenizer: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    shows_progress: bool = True,
    **settings: Settings,
) -> Outcome[CompressionReport]:
    """Set the least important weights to zero: the same share of every row of every linear layer.

    `calibration` is the text on which weights are scored, `perplexity` the text on which the
    damage is measured: each a list of texts, or a mapping with `prompts` and other fields of that
    part of the spec. `settings` are the other fields of a compression's spec. Other arguments and
    errors are those of `correct`.
    """
    fields = {
        **settings,
        "calibration": _as_fields(calibration, "calibration"),
        "perplexity": _as_fields(perplexity, "perplexity"),
    }
    checkpoint = open_checkpoint(model, tokenizer, dtype=dtype, device=device)
    spec, sets = _build_spec(CompressionSpec, "compression", checkpoint, fields)
    inputs = CompressionCallInputs(replace(checkpoint), sets, spec)  # its model is pruned in place
    return _run(
        lambda context: run_compression(context, inputs),
        CompressionReport,
        checkpoint,
        shows_progress,
    )


@plain_torch()
def apply(
    patch: Patch | bytes | str | Path,
    model: Given,
    *,
    tokenizer: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    rejected: bool = False,
) -> PreTrainedModel:
    """Return the model with a patch applied; `model` itself is not modified.

    `patch` is `Outcome.patch`, or the content or path of a patch.safetensors. Raises
    `RejectedPatchError` if the patch's job did not pass, unless `rejected` is true, and
    `WrongCheckpointError` for another base than the patch's.
    """
    parsed = patch if isinstance(patch, Patch) else parse_patch(_read(patch))
    if not rejected:
        require_passed(parsed)
    checkpoint = open_checkpoint(model, tokenizer, dtype=dtype, device=device)
    with TemporaryDirectory(prefix="excise-apply-") as scratch:
        folder = Path(scratch) / CHECKPOINT_FOLDER
        apply_patch(parsed, checkpoint.folder, folder)
        return checkpoint.load(folder).model


def _run(
    work: Callable[[MemoryContext], JobReport],
    report: type[ReportT],
    checkpoint: OpenCheckpoint,
    shows_progress: bool,
) -> Outcome[ReportT]:
    with listening(shows_progress=shows_progress) as listener:
        context = MemoryContext(listener)
        work(context)
    return Outcome(
        report=report.model_validate_json(context.files[JobFile.REPORT]),
        files=context.files,
        events=tuple(context.events),
        base=checkpoint,
    )


def _ask(
    checkpoint: OpenCheckpoint,
    behaviours: Sequence[LocalBehaviour | Mapping[str, Any]],
    reference: Texts,
    settings: Mapping[str, Settings],
) -> tuple[CorrectionSpec, Sets]:
    fields = {
        **settings,
        "behaviours": list_behaviours(behaviours),
        "reference": list_entries(reference, "reference"),
    }
    return _build_spec(CorrectionSpec, "correction", checkpoint, fields)


def _build_spec(
    spec: type[_Spec], kind: str, checkpoint: OpenCheckpoint, fields: Mapping[str, Any]
) -> tuple[_Spec, Sets]:
    sets = Sets()
    filed = sets.file_lists(fields)
    own = {"kind": kind, "model": checkpoint.name, "dtype": checkpoint.dtype}
    try:
        built = spec.model_validate({**filed, **own})
    except ValidationError as error:
        note_unknown_settings(error, spec)
        raise
    check_inputs(built, sets)
    return built, sets


def _as_fields(value: Texts | Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"prompts": list_entries(value, name)}


def _read(patch: bytes | str | Path) -> bytes:
    return patch if isinstance(patch, bytes) else read_file(Path(patch), MAX_PATCH_BYTES)
