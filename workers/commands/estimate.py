"""`excise estimate`: what a correction will take on this machine, or on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.cli.jobs import load_spec
from excise.estimates.estimate import Estimate, Question, estimate
from excise.estimates.machine import Machine
from excise.estimates.prompts import SetSize
from excise.estimates.shape import ModelShape
from excise.intake.json_documents import load_json
from excise.intake.prompt_sets import find_format, parse_prompts
from excise.specs import CorrectionSpec
from excise.specs.complaints import describe_complaints
from workers.fetching.sources import find_checkpoint
from workers.models.machine import measure_machine


class EstimateError(ValueError):
    """What is asked for cannot be estimated; the message names the remedy."""


def estimate_job(
    spec: Path, prompts: Sequence[Path], model: Path | None, machine: Path | None, device: str
) -> Estimate:
    """Return what the correction in the file `spec` takes.

    `prompts` are the behaviours' files in their order, `model` a folder or a config.json in place
    of the spec's model, `machine` a file as `--json` prints it under `machine`; without one, this
    machine is measured. Raises `EstimateError`, and as the readers of these files do.
    """
    asked = _load_correction(spec)
    if len(prompts) != len(asked.behaviours):
        raise EstimateError(
            f"the spec has {len(asked.behaviours)} behaviours and {len(prompts)} files of prompts "
            "are given. Give --prompts once for each, in the order of the spec."
        )
    sizes = [_count(path) for path in prompts]
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
    content = path.read_bytes()
    found = parse_prompts(content, find_format(path))
    return SetSize.of_file(len(found), len(content))


def _load_config(name: str, model: Path | None) -> Mapping[str, Any]:
    place = find_checkpoint(name) if model is None else model
    path = place / "config.json" if place.is_dir() else place
    config: Any = load_json(path.read_bytes())
    if not isinstance(config, Mapping):
        raise EstimateError(f"{path} does not hold a JSON object. Give a checkpoint's config.json.")
    return config


def _find_machine(path: Path | None, device: str) -> Machine:
    if path is None:
        return measure_machine(device)
    return Machine.model_validate_json(path.read_bytes())
