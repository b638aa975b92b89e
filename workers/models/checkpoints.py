"""Loading a model from a checkpoint's folder: safetensors only, no code from the checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workers.families import find_family, place_layers
from workers.models.devices import BALANCED, choose_device, count_devices
from workers.models.loaded import LoadedModel
from workers.models.memory import is_out_of_memory
from workers.models.quiet import quiet_transformers

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""A checkpoint without any of these files has no tokenizer."""

_PLAIN_OUTPUTS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
"""Settings of a model's outputs, whatever config.json asks for: one that returns tuples cannot be
read, and one that returns all attention needs memory for it."""

_NAMES_SHOWN = 3


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded; the message names the folder and the remedy."""


def require_tokenizer(directory: Path) -> None:
    """Raise `CheckpointError` if the folder has no tokenizer."""
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            "The checkpoint has no tokenizer (tokenizer.json or tokenizer.model). "
            "Save it into the same folder with save_pretrained()."
        )


def load_checkpoint(
    directory: Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LoadedModel:
    """Load model and tokenizer from a folder of safetensors, in evaluation mode.

    All weights of the model come from the files, and all weights in the files are used. Nothing
    is fetched, and no code from the folder runs. `device` is an argument of `choose_device`.
    Raises `CheckpointError`, `UnsupportedArchitectureError`, and, if the model does not fit in
    memory, an error that `is_out_of_memory` recognises.
    """
    device = choose_device(device)
    with quiet_transformers(), _one_line_errors(directory):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **(_spread(directory) if device == BALANCED else {}),
            ignore_mismatched_sizes=True,  # `_check_weights` refuses them and names them
        )
        model, loading = loaded
        _check_weights(loading)
        _check_finite(model)
        _check_class(model)
        _check_end_tokens(model)
        tokenizer: Any = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    if device != BALANCED:
        model.to(device)
    model.eval()
    for setting, value in _PLAIN_OUTPUTS.items():
        setattr(model.config, setting, value)
    return LoadedModel.of(model, tokenizer)


def _spread(directory: Path) -> dict[str, Any]:
    """Return the options that load a checkpoint with its layers spread over all GPUs."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    places = place_layers(skeleton, find_family(skeleton), count_devices())
    return {"device_map": places}


@contextmanager
def _one_line_errors(directory: Path) -> Iterator[None]:
    """Turn whatever a broken checkpoint makes the libraries raise into a `CheckpointError`.

    There is no common base class: a wrong `config.json` alone gives a dozen types.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"cannot load a checkpoint from {directory}: {tell_first_line(error)}"
        ) from error


def tell_first_line(error: Exception) -> str:
    """Return the first line of an error's message, and the next if the first only announces it."""
    if isinstance(error, KeyError):  # its message is the bare key
        return f"{error} is missing or unknown in one of its JSON files"
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first.endswith(":") and others:
        return f"{first} {others[0]}"
    return first or type(error).__name__


def _check_weights(loading: Mapping[str, Any]) -> None:
    """Raise for weights that transformers would initialise randomly or ignore.

    Tied weights and computed buffers are not concerned; transformers does not list them.
    """
    complaints = (
        (
            loading["missing_keys"],
            "it lacks {} of its weights ({}); copy every file of it, or correct config.json",
        ),
        (
            {name for name, *_ in loading["mismatched_keys"]},
            "{} of its weights have other shapes than config.json describes ({}); save it again",
        ),
        (
            loading["unexpected_keys"],
            "{} of its weights have no place in the model that config.json describes ({}); "
            "correct config.json, or save it again",
        ),
        (loading["error_msgs"], "{} of its weights cannot be read ({}); save it again"),
    )
    for names, complaint in complaints:
        if names:
            raise ValueError(complaint.format(len(names), enumerate_names(names)))


def _check_finite(model: torch.nn.Module) -> None:
    """Raise for weights that are NaN or infinite, because all results would be meaningless.

    A tensor has none exactly if its largest magnitude is finite.
    """
    broken = [
        name
        for name, weight in model.named_parameters()
        if weight.numel() and not bool(weight.detach().abs().max().isfinite())
    ]
    if broken:
        raise ValueError(
            f"{len(broken)} of its weights hold NaN or infinity ({enumerate_names(broken)}); "
            "train or merge it anew, in a wider dtype"
        )


def _check_class(model: Any) -> None:
    """Raise if config.json names another architecture than the one that its model_type stands for.

    transformers goes by model_type, servers by the architecture.
    """
    named, own = model.config.architectures, type(model).__name__
    if named and own not in named:
        raise ValueError(
            f"its config.json names the architecture {', '.join(map(str, named))}, and the "
            f"model_type {model.config.model_type}, which is {own}; correct one of them"
        )


def _check_end_tokens(model: Any) -> None:
    """Raise unless the tokens that end a response are given as ids."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        return
    ids = ends if isinstance(ends, list) else [ends]
    if not all(type(token_id) is int for token_id in ids):
        raise ValueError(
            f"its eos_token_id, in generation_config.json or config.json, is {ends!r}; give a "
            "token's id or a list of them"
        )


def enumerate_names(names: Collection[str]) -> str:
    """Return the first of the names in order, for a message."""
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join([*shown, "…"] if len(names) > len(shown) else shown)
