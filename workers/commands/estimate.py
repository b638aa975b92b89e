"""`excise estimate`: what a correction will take on this machine, or on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.cli.jobs import load_spec
from excise.estimates.estimate import Estimate, Question, estimate
from excise.estimates.machine import Machine
from excise.estimates.prompts import JobSets, SetSize
from excise.estimates.shape import ModelShape
from excise.intake.json_documents import load_json
from excise.intake.local_files import MAX_TEXT_BYTES, read_file
from excise.intake.prompt_sets import find_format, parse_prompts
from excise.specs import CorrectionSpec
from excise.specs.complaints import describe_complaints
from workers.fetching.sources import find_checkpoint
from workers.models.machine import measure_machine


class EstimateError(ValueError):
    """The request cannot be estimated; the message names the remedy."""


@dataclass(frozen=True)
class SetFiles:
    """The files of a job's prompt sets."""

    prompts: Sequence[Path]
    """Prompts of each behaviour, in the spec's order."""
    reference: Path | None = None
    """None if it is not given; then as much text is assumed as the spec may use."""
    perplexity: Path | None = None
    """The corpus; None as for `reference`."""


def estimate_job(
    spec: Path, files: SetFiles, model: Path | None, machine: Path | None, device: str
) -> Estimate:
    """Return what the correction in the file `spec` takes.

    `model` is a folder or a config.json in place of the spec's model, `machine` a file as `--json`
    prints it under `machine`; without one, this machine is measured. Raises `EstimateError`, and
    as the readers of these files do.
    """
    asked = _load_correction(spec)
    if len(files.prompts) != len(asked.behaviours):
        raise EstimateError(
            f"the spec has {len(asked.behaviours)} behaviours and {len(files.prompts)} files of "
            "prompts are given. Give --prompts once for each, in the order of the spec."
        )
    if files.perplexity is not None and asked.perplexity is None:
        raise EstimateError(
            "the spec has no perplexity, for which --perplexity gives the corpus. Add it to the "
            "spec, or leave the option out."
        )
    sizes = JobSets(
        [_count(path) for path in files.prompts],
        None if files.reference is None else _count(files.reference),
        None if files.perplexity is None else _count(files.perplexity),
    )
    shape = ModelShape.of(_load_config(asked.model, model))
    return estimate(Question(asked, shape, sizes), _find_machine(machine, device))


def _load_correction(path: Path) -> CorrectionSpec:
    document = load_spec(path)
    if document.get("kind") != "correction":
        raise EstimateError("only corrections are estimated. Circuits take minutes.")
    try:
        return CorrectionSpec.model_validate(document)
    except ValidationError as error:
        raise EstimateError(describe_complaints(error, CorrectionSpec)) from None


def _count(path: Path) -> SetSize:
    content = read_file(path, MAX_TEXT_BYTES)
    found = parse_prompts(content, find_format(path))
    return SetSize.of_file(len(found), len(content))


def _load_config(name: str, model: Path | None) -> Mapping[str, Any]:
    place = find_checkpoint(name) if model is None else model
    path = place / "config.json" if place.is_dir() else place
    config: Any = load_json(read_file(path))
    if not isinstance(config, Mapping):
        raise EstimateError(f"{path} does not hold a JSON object. Give a checkpoint's config.json.")
    return config


def _find_machine(path: Path | None, device: str) -> Machine:
    if path is None:
        return measure_machine(device)
    return Machine.model_validate_json(read_file(path))
