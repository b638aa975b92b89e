"""Under which key the figures of a base are kept: a hash of all they depend on.

That is the checkpoint (weights, configuration, tokenizer, chat template), everything it is asked,
in its own tokens, the number format, the kind of device and the program that measures. Limits are
no part of it: they judge figures and change none.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import workers
from excise.specs.behaviours import BehaviourDefinition
from workers.abilities.encoding import EncodedProbe
from workers.commands.gate.behaviours import BehaviourGateBase
from workers.commands.gate.contents import FolderContents, hash_file
from workers.measuring.measurement import CheckPlan

_PACKAGES = ("excise", "torch", "transformers", "tokenizers", "numpy")


def compute_measure_sha256(plan: CheckPlan, dtype: str) -> str:
    """Return the hash of what a model is asked and what it is computed in."""
    asked: dict[str, Any] = {
        "dtype": dtype,
        "corpus": plan.corpus,
        "reference": plan.reference,
        "prompt_sets": {name: asdict(chosen) for name, chosen in plan.prompt_sets.items()},
        "zero_shot": {name: list(map(asdict, own)) for name, own in plan.zero_shot.items()},
        "abilities": {name: _describe_probes(own) for name, own in plan.abilities.items()},
    }
    return _hash(asked)


def compute_definition_sha256(behaviour: BehaviourGateBase) -> str:
    """Return the hash of how a behaviour is found, which its prompts and limits are no part of."""
    demands = set(BehaviourGateBase.model_fields) - set(BehaviourDefinition.model_fields)
    return _hash(behaviour.model_dump(mode="json", exclude=demands))


def compute_base_key(measure_sha256: str, contents: FolderContents, device: str) -> str:
    """Return the key of a base's figures on one measure, on devices as `device` names them."""
    return _hash(
        {
            "measure": measure_sha256,
            "weights": contents.weights_sha256,
            "files": dict(contents.files),
            "device": describe_device(device),
            "packages": {name: version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "source": hash_source(),
        }
    )


def compute_slice_key(base_key: str, probes: Sequence[EncodedProbe]) -> str:
    """Return the key of the same base's figures on further probes of one slice."""
    return _hash({"base": base_key, "probes": _describe_probes(probes)})


def describe_device(device: str) -> dict[str, Any]:
    """Return what decides the last bits of a figure: kind of device, instructions, threads."""
    found: dict[str, Any] = {
        "asked": device,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ]
        found["cuda"] = torch.version.cuda
    return found


@cache
def hash_source() -> str:
    """Return the hash of every file of the engine, as it is installed."""
    digest = hashlib.sha256()
    for root in sorted(workers.__path__):
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(root).as_posix()
                digest.update(f"{name}\0{hash_file(path)}\0".encode())
    return digest.hexdigest()


def _describe_probes(probes: Sequence[EncodedProbe]) -> list[Any]:
    return [asdict(probe) for probe in probes]


def _hash(value: object) -> str:
    document = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()
