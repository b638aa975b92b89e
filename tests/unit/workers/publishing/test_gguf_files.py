"""A patch for llama.cpp, read back: by transformers' own reader of GGUF, and tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize
from transformers import AutoModelForCausalLM

from excise.names import Granularity
from tests.tiny_families import build_family_model
from tests.unit.workers.publishing.cases import (
    PROMPTS,
    Pruned,
    build_pruned,
    build_pruned_weights,
)
from workers.families import find_components, find_family, is_transposed, linear_weight
from workers.pruning.components import pruned
from workers.pruning.patch import WrongCheckpointError, build_patch
from workers.publishing.adapters import factorise
from workers.publishing.gguf_files import (
    GGUF_FAMILIES,
    GgufError,
    GgufNames,
    merge_into_gguf,
    write_gguf_adapter,
)

HELD = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "phi3", "gpt2", "gpt_neox")
"""Families that llama.cpp holds, too."""
READ = ("llama", "qwen2")
"""Those of them whose GGUF transformers reads back here."""
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
    "gpt_neox.embed_in.weight": "token_embd.weight",
    "gpt_neox.final_layer_norm.weight": "output_norm.weight",
    "gpt_neox.final_layer_norm.bias": "output_norm.bias",
    "embed_out.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
AROUND = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Norms of Gemma 3 and OLMo 2, which have some behind attention and MLP."""
FLOATS = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}


def permute_slowly(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """A head's rows as llama.cpp's rotation wants them: a row of each half in turn."""
    half = len(rows) // heads // 2
    order = [
        head * 2 * half + part * half + pair
        for head in range(heads)
        for pair in range(half)
        for part in range(2)
    ]
    return rows[order]


def part_slowly(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries of all heads, then keys, then values, from those of a head together."""
    size = len(rows) // heads // 3
    order = [
        head * 3 * size + part * size + place
        for part in range(3)
        for head in range(heads)
        for place in range(size)
    ]
    return rows[order]


def arrange_slowly(case: Pruned, module: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight `(out, in)` of a module as a converter would write it."""
    config = case.model.config
    if config.model_type in ("llama", "mistral"):
        if module.endswith("q_proj"):
            return permute_slowly(weight, config.num_attention_heads)
        if module.endswith("k_proj"):
            return permute_slowly(weight, config.num_key_value_heads)
    if module.endswith("query_key_value"):
        return part_slowly(weight, config.num_attention_heads)
    return weight


def read_weights(case: Pruned) -> dict[str, torch.Tensor]:
    """Module → its weight `(out, in)`."""
    modules = find_components(case.model, find_family(case.model), Granularity.WEIGHT)
    return {
        module: linear_weight(linear).detach().t()
        if is_transposed(linear)
        else linear_weight(linear).detach()
        for module, linear in modules.items()
    }


def convert(
    case: Pruned,
    file: Path,
    dtype: torch.dtype = torch.float32,
    entries: Mapping[str, Any] | None = None,
    changes: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """A GGUF of the base with the metadata `entries`; vectors are F32, as in the converter."""
    names = GgufNames(case.folder)
    writer = GGUFWriter(file, names.architecture)
    for key, value in (entries or {}).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{names.architecture}.{key}", value)
    for name, tensor in (read_tensors(case) | dict(changes or {})).items():
        own = FLOATS[dtype if tensor.dim() > 1 else torch.float32]
        data = quantize(tensor.float().contiguous().numpy(), own)
        writer.add_tensor(name, data, raw_dtype=own)
    finish(writer)
    return file


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(case: Pruned) -> dict[str, torch.Tensor]:
    """Every tensor, by its name in GGUF, as a converter would write it."""
    names = GgufNames(case.folder)
    weights = {
        names.name(module): arrange_slowly(case, module, weight)
        for module, weight in read_weights(case).items()
    }
    return weights | read_others(case)


def read_others(case: Pruned) -> dict[str, torch.Tensor]:
    """Embeddings, norms, biases and head, by their names in GGUF."""
    found = {}
    weights = {f"{module}.weight" for module in read_weights(case)}
    names, family = GgufNames(case.folder), case.model.config.model_type
    own = OUTER | (AROUND if family in ("gemma3_text", "olmo2") else {})
    for key, value in case.model.state_dict().items():
        if key in weights or (key in ("lm_head.weight",) and case.model.config.tie_word_embeddings):
            continue
        shifted = value + 1 if family == "gemma3_text" and key.endswith("norm.weight") else value
        if key in own:
            found[own[key]] = shifted
            continue
        _, _, layer, *rest = key.split(".")
        module, _, kind = key.rpartition(".")
        if rest[-2] in own:
            found[f"blk.{layer}.{own[rest[-2]]}.{kind}"] = shifted
        else:
            stem = names.name(module).removesuffix(".weight")
            found[f"{stem}.bias"] = arrange_slowly(case, module, value)
    return found


def read_back(file: Path) -> dict[str, np.ndarray]:
    """Tensor name → values of a file with float32 tensors."""
    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(file).tensors}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("build", [build_pruned, build_pruned_weights], ids=["neuron", "weight"])
def test_an_adapter_takes_away_from_the_bases_gguf_what_the_patch_does(
    build: Any, name: str, tmp_path: Path
) -> None:
    case = build(name, tmp_path / "base")
    before = read_back(convert(case, tmp_path / "base.gguf"))
    rank = write_gguf_adapter(case.patch, case.folder, tmp_path / "a.gguf", base_model="tiny")
    adapter = read_back(tmp_path / "a.gguf")
    with pruned(case.model, case.selection):
        after = read_back(convert(case, tmp_path / "after.gguf"))
    assert {tensor.rpartition(".")[0] for tensor in adapter} <= before.keys()
    for tensor, values in before.items():
        down, up = (adapter.get(f"{tensor}.lora_{side}") for side in "ab")
        if down is None or up is None:
            assert np.array_equal(values, after[tensor])
            continue
        assert (len(down), up.shape[1]) == (rank, rank)
        assert np.array_equal(values + up @ down, after[tensor])
        assert not np.array_equal(values, after[tensor])


def test_an_adapter_says_what_it_is(tmp_path: Path) -> None:
    case = build_pruned_weights("llama", tmp_path / "base")
    write_gguf_adapter(case.patch, case.folder, tmp_path / "a.gguf", base_model="tiny")
    fields = GGUFReader(tmp_path / "a.gguf").fields
    said = {key: fields[key].contents() for key in fields if not key.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "tiny, corrected",
        "adapter.type": "lora",
        "adapter.lora.alpha": 3.0,  # the rank: llama.cpp multiplies by alpha ÷ rank
    }


@pytest.mark.parametrize("dtype", list(FLOATS))
@pytest.mark.parametrize("name", HELD)
def test_a_merged_gguf_is_the_bases_with_nothing_else_changed(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    case = build_pruned_weights(name, tmp_path / "base")
    base = convert(case, tmp_path / "base.gguf", dtype)
    merge_into_gguf(case.patch, case.folder, base, tmp_path / "model.gguf")
    with pruned(case.model, case.selection):
        expected = convert(case, tmp_path / "after.gguf", dtype)
    assert (tmp_path / "model.gguf").read_bytes() == expected.read_bytes()
    assert (tmp_path / "model.gguf").read_bytes() != base.read_bytes()


@pytest.mark.parametrize("name", HELD)
def test_a_gguf_that_differs_only_where_the_patch_does_not_reach_is_refused(
    name: str, tmp_path: Path
) -> None:
    case = build_pruned_weights(name, tmp_path / "base")
    for tensor, values in read_tensors(case).items():
        if tensor.startswith("blk.0."):  # like the other layer
            continue
        other = values.clone()
        other[-1] += 0.5
        tuned = convert(case, tmp_path / "tuned.gguf", changes={tensor: other})
        with pytest.raises(WrongCheckpointError, match=f"{tensor} of tuned.gguf does not hold"):
            merge_into_gguf(case.patch, case.folder, tuned, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_folder_that_is_not_the_patchs_base_is_refused(tmp_path: Path) -> None:
    case = build_pruned_weights("llama", tmp_path / "base")
    norm = case.model.get_submodule("model.norm")
    norm.weight.data += 0.5
    case.model.save_pretrained(tmp_path / "tuned")
    tuned = convert(case, tmp_path / "tuned.gguf")
    with pytest.raises(WrongCheckpointError, match=r"tuned have sha256 .*; give its base"):
        merge_into_gguf(case.patch, tmp_path / "tuned", tuned, tmp_path / "model.gguf")
    norm.weight.data -= 0.5


def test_what_a_converter_may_do_is_no_other_base(tmp_path: Path) -> None:
    """It adds what it computes, an output that is the embedding, and drops rows without a token."""
    case = build_pruned_weights("gemma3_text", tmp_path / "base")
    embedding = case.model.get_input_embeddings().weight.detach()
    changes = {
        "token_embd.weight": embedding[:-3],
        "output.weight": embedding,
        "rope_freqs.weight": torch.ones(4),
    }
    base = convert(case, tmp_path / "base.gguf", changes=changes)
    merge_into_gguf(case.patch, case.folder, base, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").stat().st_size == base.stat().st_size
    base = convert(case, tmp_path / "more.gguf", changes={"blk.0.attn_k.bias": torch.ones(4)})
    with pytest.raises(WrongCheckpointError, match=r"attn_k\.bias of more\.gguf is not in the"):
        merge_into_gguf(case.patch, case.folder, base, tmp_path / "other.gguf")


def describe(case: Pruned) -> dict[str, Any]:
    """What transformers reads of a model's shape."""
    config = case.model.config
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": getattr(config, "head_dim", None) or 8,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": 10000.0,
        "vocab_size": config.vocab_size,
    }


PLAIN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen2": {"use_sliding_window": False, "layer_types": None, "tie_word_embeddings": False},
}
"""Settings that a GGUF has no place for are left at what it stands for."""


@pytest.mark.parametrize("name", READ)
def test_transformers_reads_a_merged_gguf_as_the_pruned_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.unit.workers.publishing.cases.build_family_model",
        lambda family: build_family_model(family, **PLAIN[family]),
    )
    case = build_pruned_weights(name, tmp_path / "base")
    convert(case, tmp_path / "base.gguf", entries=describe(case))
    merge_into_gguf(case.patch, case.folder, tmp_path / "base.gguf", tmp_path / "model.gguf")
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        found, base = (
            AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file, dtype=torch.float32)(
                input_ids=ids
            ).logits
            for file in ("model.gguf", "base.gguf")
        )
        before = case.model(input_ids=ids).logits
        with pruned(case.model, case.selection):
            expected = case.model(input_ids=ids).logits
    torch.testing.assert_close(base, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - base).abs().max() > 0.05


def test_neurons_and_shares_are_merged_too(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base", scale=0.5)
    convert(case, tmp_path / "base.gguf")
    merge_into_gguf(case.patch, case.folder, tmp_path / "base.gguf", tmp_path / "model.gguf")
    found = read_back(tmp_path / "model.gguf")["blk.0.ffn_down.weight"]
    weight = case.model.get_submodule("model.layers.0.mlp.down_proj").weight.detach().clone()
    weight[:, [0, 7, 47]] *= 0.5
    assert np.array_equal(found, weight.numpy())


def test_a_quantised_base_another_base_and_a_missing_tensor_are_refused(tmp_path: Path) -> None:
    case = build_pruned_weights("llama", tmp_path / "base")
    writer = GGUFWriter(tmp_path / "packed.gguf", "llama")
    writer.add_tensor("blk.0.ffn_down.weight", np.zeros((32, 48), dtype=np.int8))
    finish(writer)
    with pytest.raises(GgufError, match=r"is I8 in packed\.gguf; give the base as F32"):
        merge_into_gguf(case.patch, case.folder, tmp_path / "packed.gguf", tmp_path / "m.gguf")
    other = replace(case, model=build_family_model("llama", seed=1))
    convert(other, tmp_path / "other.gguf")
    with pytest.raises(WrongCheckpointError, match="give the GGUF of the patch's base"):
        merge_into_gguf(case.patch, case.folder, tmp_path / "other.gguf", tmp_path / "model.gguf")
    writer = GGUFWriter(tmp_path / "empty.gguf", "llama")
    finish(writer)
    with pytest.raises(GgufError, match="is missing in empty"):
        merge_into_gguf(case.patch, case.folder, tmp_path / "empty.gguf", tmp_path / "model.gguf")


def test_what_llama_cpp_does_not_have_is_refused_with_what_it_has(tmp_path: Path) -> None:
    case = build_pruned("opt", tmp_path / "base")
    with pytest.raises(GgufError, match=r"no family for OPTForCausalLM.*LlamaForCausalLM"):
        write_gguf_adapter(case.patch, case.folder, tmp_path / "a.gguf", base_model="tiny")
    assert "OPTForCausalLM" not in GGUF_FAMILIES
    means = {name: torch.ones(48) for name in case.selection.indices}
    patch = build_patch(case.folder, case.selection, replacement=means)
    with pytest.raises(GgufError, match="mean change biases"):
        merge_into_gguf(patch, case.folder, tmp_path / "b.gguf", tmp_path / "model.gguf")


def test_an_adapter_holds_what_the_factors_say(tmp_path: Path) -> None:
    case = build_pruned_weights("qwen2", tmp_path / "base")
    write_gguf_adapter(case.patch, case.folder, tmp_path / "a.gguf", base_model="tiny")
    tensors = read_back(tmp_path / "a.gguf")
    factors = factorise(case.patch, case.folder)["model.layers.1.self_attn.v_proj"]
    assert np.array_equal(tensors["blk.1.attn_v.weight.lora_a"], factors.down.numpy())
    assert np.array_equal(tensors["blk.1.attn_v.weight.lora_b"], factors.up.numpy())
