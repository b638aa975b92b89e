"""The patch as a value and as the bytes of a safetensors file (formats 1 to 3 can be read).

Format 3 is format 2 plus the job's verdict, so that a rejected patch is not applied by mistake;
it is written whenever there is a verdict.

For every changed weight `T` the file holds two tensors. `T::indices` are the ascending indices of
its components (int32, or int64 if they do not fit). `T::original` are the base's values as raw
bits: for neurons and heads one row `(out,)` per input feature, for single weights one value per
index. Mean ablation adds `B::original` and `B::corrected`, the whole bias before and after.
The metadata holds the rest: what a component is, how the weights are laid out, and for each
tensor the module of the loaded model it belongs to and the index of its first component there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from excise.names import Granularity, Verdict
from workers.domain import Selection
from workers.pruning.stored_matrix import Layout, PatchError, Values

METADATA_KEY = "excise"
MAX_COMPONENTS = 2**48
"""Limit for one module, whose weights would take at least 256 TiB; products of such counts with
the sizes below fit 64 bits."""
MAX_HEAD_DIM = 2**12
"""Limit for the input features of one head; published models have at most 512."""
_MAX_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, eq=False)
class WeightChange:
    """The pruned components of one stored weight tensor, with their base values."""

    module: str
    """Name of the module in a loaded model."""
    first: int
    """Index, in the module, of the tensor's first component; above 0 for later experts."""
    indices: Values
    """`(component,)` int32 or int64, ascending, relative to the tensor's first component."""
    original: Values
    """Base values as raw bits, unsigned: `(feature, out)`, or `(component,)` for weights."""


@dataclass(frozen=True, eq=False)
class BiasChange:
    """A bias `(out,)`, as raw bits, before and after it takes over the components' mean output."""

    original: Values
    corrected: Values


@dataclass(frozen=True)
class PatchVerdict:
    """How the job that made a patch ended."""

    verdict: Verdict
    unmet: tuple[str, ...] = ()
    """Names of the gates that were not met."""


@dataclass(frozen=True, eq=False)
class Patch:
    """A reversible correction of one base checkpoint."""

    base_sha256: str
    corrected_sha256: str
    layout: Layout
    scale: float
    """Factor on the components' weights; 0 removes them."""
    weights: Mapping[str, WeightChange]
    """Weight tensor name → its change."""
    biases: Mapping[str, BiasChange]
    """Bias tensor name → its change; empty except for mean ablation."""
    verdict: PatchVerdict | None = None
    """None if no job made the patch, or if it has a format older than 3."""

    @property
    def granularity(self) -> Granularity:
        """What one component is."""
        return self.layout.granularity

    @property
    def operation(self) -> Literal["zero", "scale", "mean"]:
        """`zero`, `scale` or, with biases, `mean`."""
        if self.biases:
            return "mean"
        return "scale" if self.scale else "zero"

    @property
    def selection(self) -> Selection:
        """The pruned components, by the module names of a loaded model."""
        parts: dict[str, list[Values]] = {}
        for _, change in sorted(self.weights.items(), key=lambda item: item[1].first):
            parts.setdefault(change.module, []).append(
                change.indices.astype(np.int64) + change.first
            )
        indices = {name: torch.from_numpy(np.concatenate(parts[name])) for name in sorted(parts)}
        return Selection(self.granularity, indices)


Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class _Description(BaseModel):
    """Metadata fields common to all format versions."""

    model_config = ConfigDict(frozen=True, strict=True)

    base_sha256: Sha256
    corrected_sha256: Sha256


class _DescriptionV1(_Description):
    """Metadata of format 1: neurons set to zero, `T::columns` and `T::original` `(out, neuron)`."""

    format_version: Literal[1]
    granularity: Literal[Granularity.NEURON]


class _TensorPlace(BaseModel):
    """The module that a tensor belongs to, and the index of its first component there."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    module: str
    first: int = Field(ge=0, lt=MAX_COMPONENTS)


class _DescriptionV2(_Description):
    """Metadata of format 2."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[2]
    operation: Literal["zero", "scale", "mean"]
    granularity: Granularity
    scale: float = Field(allow_inf_nan=False)
    head_dim: int | None = Field(ge=1, le=MAX_HEAD_DIM)
    transposed: bool
    components: int = Field(ge=1)
    tensors: dict[str, _TensorPlace] = Field(min_length=1)


GateName = Annotated[str, Field(max_length=256)]


class _DescriptionV3(_DescriptionV2):
    """Metadata of format 3: that of format 2 and the verdict."""

    format_version: Literal[3]  # type: ignore[assignment]
    verdict: Verdict
    unmet_gates: list[GateName] = Field(max_length=1000)


def serialise_patch(patch: Patch) -> bytes:
    """Return the patch as the bytes of a safetensors file. Equal patches give equal bytes."""
    tensors: dict[str, Values] = {}
    for name, change in sorted(patch.weights.items()):
        tensors[f"{name}::indices"] = np.ascontiguousarray(change.indices)
        tensors[f"{name}::original"] = np.ascontiguousarray(change.original)
    for name, bias in sorted(patch.biases.items()):
        tensors[f"{name}::original"] = np.ascontiguousarray(bias.original)
        tensors[f"{name}::corrected"] = np.ascontiguousarray(bias.corrected)
    text = json.dumps(_describe(patch).model_dump(mode="json"), sort_keys=True)
    # Only one metadata key, because safetensors does not fix the order of several.
    return save_safetensors(tensors, metadata={METADATA_KEY: text})


def _describe(patch: Patch) -> _DescriptionV2:
    fields = {
        "operation": patch.operation,
        "granularity": patch.granularity,
        "scale": patch.scale,
        "head_dim": patch.layout.head_dim,
        "transposed": patch.layout.transposed,
        "base_sha256": patch.base_sha256,
        "corrected_sha256": patch.corrected_sha256,
        "components": len(patch.selection),
        "tensors": {
            name: _TensorPlace(module=change.module, first=change.first)
            for name, change in sorted(patch.weights.items())
        },
    }
    found = patch.verdict
    if found is None:
        return _DescriptionV2.model_validate({"format_version": 2, **fields})
    judged = {"verdict": found.verdict, "unmet_gates": list(found.unmet)}
    return _DescriptionV3.model_validate({"format_version": 3, **fields, **judged})


def parse_patch(data: bytes) -> Patch:
    """Return the patch in the bytes of a safetensors file of format 3, 2 or 1.

    Raises `PatchError` if they are not a sound patch.
    """
    description = _read_description(data)
    try:
        tensors = load_safetensors(data)
    except Exception as error:
        raise PatchError(f"not a readable safetensors file: {error!r}") from error
    groups = _group_tensors(tensors)
    if isinstance(description, _DescriptionV1):
        return _build_v1(description, groups)
    return _build_v2(description, groups)


def _read_description(data: bytes) -> _DescriptionV1 | _DescriptionV2:
    length = int.from_bytes(data[:8], "little")
    try:
        header = load_json(data[8 : 8 + length])
        text = header["__metadata__"][METADATA_KEY]
        version = load_json(text)["format_version"]
    except DuplicateKeyError as error:
        raise PatchError(f"the patch's description is unsound: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PatchError("the file is not an Excise patch") from error
    known: dict[object, type[_DescriptionV1] | type[_DescriptionV2]]
    known = {1: _DescriptionV1, 2: _DescriptionV2, 3: _DescriptionV3}
    if type(version) is not int or version not in known:
        shown = repr(version)[:_MAX_SHOWN_CHARACTERS]
        raise PatchError(f"patch format {shown} is not supported; this build reads 1, 2 and 3")
    try:
        return known[version].model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PatchError(
            f"the patch's {place!r} is unsound: {first['msg']!r}; fetch it from its job again"
        ) from error


def _group_tensors(tensors: Mapping[str, Values]) -> dict[str, dict[str, Values]]:
    """Return tensor name → part → values, split from keys of the form `name::part`."""
    groups: dict[str, dict[str, Values]] = {}
    for key in sorted(tensors):
        name, separator, part = key.rpartition("::")
        if not separator:
            raise PatchError(f"the patch holds {key!r}, which is not part of one")
        groups.setdefault(name, {})[part] = tensors[key]
    if not groups:
        raise PatchError("the patch holds no components")
    return groups


def _build_v1(description: _DescriptionV1, groups: Mapping[str, dict[str, Values]]) -> Patch:
    layout = Layout(Granularity.NEURON)
    weights = {}
    for name, parts in groups.items():
        if parts.keys() != {"columns", "original"}:
            raise PatchError(f"the patch does not hold columns and original values of {name!r}")
        original = parts["original"]
        change = WeightChange(
            name.removesuffix(".weight"),
            0,
            parts["columns"],
            original.T if original.ndim == 2 else original,
        )
        weights[name] = _check_change(name, change, layout)
    return Patch(
        description.base_sha256, description.corrected_sha256, layout, 0.0, weights, biases={}
    )


def _build_v2(description: _DescriptionV2, groups: Mapping[str, dict[str, Values]]) -> Patch:
    is_head = description.granularity is Granularity.HEAD
    if is_head is (description.head_dim is None):
        raise PatchError("the patch must give head_dim for heads and for nothing else")
    layout = Layout(description.granularity, description.transposed, description.head_dim)
    weights, biases = {}, {}
    for name, parts in groups.items():
        place = description.tensors.get(name)
        if place is not None and parts.keys() == {"indices", "original"}:
            change = WeightChange(place.module, place.first, parts["indices"], parts["original"])
            weights[name] = _check_change(name, change, layout)
        elif place is None and parts.keys() == {"original", "corrected"}:
            biases[name] = _check_bias(name, BiasChange(parts["original"], parts["corrected"]))
        else:
            raise PatchError(f"the patch holds {sorted(parts)} of {name!r}, which do not make one")
    if missing := sorted(description.tensors.keys() - weights.keys()):
        raise PatchError(f"the patch lacks the values of {missing[0]!r}")
    patch = Patch(
        description.base_sha256,
        description.corrected_sha256,
        layout,
        description.scale,
        weights,
        biases,
        _read_verdict(description),
    )
    found = (patch.operation, sum(len(change.indices) for change in weights.values()))
    if found != (description.operation, description.components):
        raise PatchError(f"the patch describes itself wrongly: it holds {found[1]} to {found[0]}")
    return patch


def _read_verdict(description: _DescriptionV2) -> PatchVerdict | None:
    if not isinstance(description, _DescriptionV3):
        return None
    found = PatchVerdict(description.verdict, tuple(description.unmet_gates))
    if found.verdict is Verdict.PASSED and found.unmet:
        raise PatchError(
            f"the patch's 'verdict' is unsound: it is passed, though 'unmet_gates' has "
            f"{found.unmet[0]!r}; fetch it from its job again"
        )
    return found


def _check_change(name: str, change: WeightChange, layout: Layout) -> WeightChange:
    indices, original = change.indices, change.original
    if indices.dtype not in (np.int32, np.int64) or indices.ndim != 1 or indices.size == 0:
        raise PatchError(f"the indices of {name!r} are not a list of 32- or 64-bit integers")
    if indices[0] < 0 or np.any(indices[1:] <= indices[:-1]):
        raise PatchError(f"the indices of {name!r} are not in ascending order from 0")
    if indices[-1] >= MAX_COMPONENTS:
        raise PatchError(f"an index of {name!r} is over {MAX_COMPONENTS - 1}; make the patch again")
    axes = 1 if layout.granularity is Granularity.WEIGHT else 2
    rows = indices.size * layout.width
    if original.dtype.kind != "u" or original.ndim != axes or original.shape[0] != rows:
        raise PatchError(f"the original values of {name!r} do not fit its indices")
    return change


def _check_bias(name: str, change: BiasChange) -> BiasChange:
    original, corrected = change.original, change.corrected
    if original.dtype.kind != "u" or original.ndim != 1:
        raise PatchError(f"the original values of {name!r} are not those of a bias")
    if (original.dtype, original.shape) != (corrected.dtype, corrected.shape):
        raise PatchError(f"the two values of {name!r} differ in shape or dtype")
    return change
