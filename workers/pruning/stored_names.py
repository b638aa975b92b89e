"""Finding the tensors of a checkpoint folder that hold a module's weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from workers.pruning.safetensors_files import StoredTensor

CONV1D_MODEL_TYPES = frozenset({"gpt2"})
"""Values of `model_type` whose linear modules are stored (in, out)."""

_EXPERT_FORMS = {
    ".mlp.experts.gate_up_proj": (
        ("mlp", ("gate_proj", "up_proj")),
        ("block_sparse_moe", ("w1", "w3")),
    ),
    ".mlp.experts.down_proj": (("mlp", ("down_proj",)), ("block_sparse_moe", ("w2",))),
}
"""How transformers names experts in memory, all in one parameter → where families keep them one by
one on disk: Qwen3-MoE, Mixtral. Of an expert's gates and up projections the gates come first."""


def find_stored(tensors: Mapping[str, StoredTensor], module: str) -> tuple[StoredTensor, ...]:
    """Return the tensors that hold a module's weights: one, or those of each expert in order.

    A checkpoint's names may lack leading parts of the module's name (GPT-2's `h.0…` for
    `transformer.h.0…`) or have additional ones; a unique match is accepted. Fused experts are
    found as one tensor or as one matrix per expert. Returns an empty tuple if nothing matches.

    Raises `ValueError` if several tensors match.
    """
    for name in (f"{module}.weight", module):
        if found := _resolve(tensors, name):
            return (found,)
    for fused, forms in _EXPERT_FORMS.items():
        for block, projections in forms if module.endswith(fused) else ():
            first = f"{module.removesuffix(fused)}.{block}.experts.0.{projections[0]}.weight"
            if found := _resolve(tensors, first):
                stem = found.name.removesuffix(f"0.{projections[0]}.weight")
                return tuple(_list_experts(tensors, stem, projections))
    return ()


def _list_experts(
    tensors: Mapping[str, StoredTensor], stem: str, projections: tuple[str, ...]
) -> Iterator[StoredTensor]:
    """Yield the tensors of one expert after another, up to the first that lacks one."""
    for expert in count():
        names = [f"{stem}{expert}.{projection}.weight" for projection in projections]
        if not all(name in tensors for name in names):
            return
        yield from (tensors[name] for name in names)


def find_bias(tensors: Mapping[str, StoredTensor], weight: StoredTensor) -> StoredTensor | None:
    """Return the stored bias that belongs to a weight; None if there is none."""
    return tensors.get(f"{weight.name.removesuffix('.weight')}.bias")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the language model's part of `config.json`; empty if there is no such file.

    Raises `ValueError` if the file is not a JSON object.
    """
    file = folder / "config.json"
    if not file.exists():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a JSON object")
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def find_stored_head_dim(config: Mapping[str, Any], features: int) -> int | None:
    """Return an attention output projection's inputs per query head; None if not known."""
    heads = config.get("num_attention_heads", config.get("n_head"))
    if not isinstance(heads, int) or heads < 1 or features % heads:
        return None
    return features // heads


def _resolve(tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor | None:
    if found := tensors.get(name):
        return found
    similar = [stored for stored in tensors if _is_tail(stored, name) or _is_tail(name, stored)]
    if len(similar) > 1:
        raise ValueError(f"{name} may be any of {', '.join(sorted(similar))} in the checkpoint")
    return tensors[similar[0]] if similar else None


def _is_tail(short: str, long: str) -> bool:
    """Return whether `short` is `long` without leading parts and still names a layer."""
    return long.endswith(f".{short}") and re.search(r"(^|\.)\d+\.", short) is not None
