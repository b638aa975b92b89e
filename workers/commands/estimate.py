"""`excise estimate`: what a correction will take on this machine, or on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.cli.jobs import load_spec
from excise.estimates.cost import CHARACTERS_A_TOKEN, SetSize
from excise.estimates.estimate import Estimate, Question, describe_bytes, estimate
from excise.estimates.machine import Machine
from excise.estimates.shape import ModelShape
from excise.intake.json_documents import load_json
from excise.intake.prompt_sets import parse_prompts
from excise.specs import CorrectionSpec
from workers.fetching.sources import find_checkpoint
from workers.models.machine import measure_machine

_JSON_LINES = frozenset({".jsonl", ".ndjson"})


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


def describe_estimate(found: Estimate) -> list[str]:
    """Return an estimate as lines for people."""
    machine = found.machine
    on_device = f" ({describe_bytes(machine.device_bytes)})" if machine.device_bytes else ""
    lines = [
        f"machine      {machine.device}{on_device}, {describe_bytes(machine.host_bytes)} of main "
        f"memory, {machine.flops / 1e9:.0f} GFLOP/s",
        f"memory       {describe_bytes(found.host_bytes)}"
        + (f", on the device {describe_bytes(found.device_bytes)}" if on_device else ""),
        f"disk         {describe_bytes(found.disk_bytes)} in the artifact store",
        f"time         {found.minutes:.0f} min: "
        + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.stages.items()),
        f"fits         {'yes' if found.fits else f'no: it {found.problem}'}",
    ]
    for setting in found.cheaper:
        change = ", ".join(f"{name} = {value}" for name, value in setting.change.items())
        lines.append(
            f"cheaper      {change}: {describe_bytes(setting.host_bytes)}, "
            + (f"device {describe_bytes(setting.device_bytes)}, " if on_device else "")
            + f"{setting.minutes:.0f} min{'' if setting.fits else ', does not fit either'}"
        )
    return [*lines, "Estimates are right within a factor of two, not better."]


def _load_correction(path: Path) -> CorrectionSpec:
    document = load_spec(path)
    if document.get("kind") != "correction":
        raise EstimateError("only corrections are estimated. Circuits take minutes.")
    try:
        return CorrectionSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EstimateError(f"{place}: {first['msg']}") from None


def _count(path: Path) -> SetSize:
    content = path.read_bytes()
    found = parse_prompts(content, "jsonl" if path.suffix in _JSON_LINES else "text")
    return SetSize(len(found), sum(len(own.text) for own in found) // CHARACTERS_A_TOKEN)


def _load_config(name: str, model: Path | None) -> Mapping[str, Any]:
    place = find_checkpoint(name) if model is None else model
    path = place / "config.json" if place.is_dir() else place
    config: Any = load_json(path.read_bytes())
    if not isinstance(config, Mapping):
        raise EstimateError(f"{path} holds no JSON object. Give a checkpoint's config.json.")
    return config


def _find_machine(path: Path | None, device: str) -> Machine:
    if path is None:
        return measure_machine(device)
    return Machine.model_validate_json(path.read_bytes())
