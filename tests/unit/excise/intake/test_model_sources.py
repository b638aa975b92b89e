"""Model sources: only safe checkpoints inside the roots, and errors that say what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from excise.architectures import ARCHITECTURES
from excise.intake.model_sources import (
    ModelSourceError,
    list_checkpoints,
    resolve_model_source,
)
from workers.families.catalogue import FAMILIES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def build(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    content = {"architectures": ["LlamaForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"\0")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path / "root" / "good")
    return tmp_path / "root"


def refuse(model: str, root: Path, says: str) -> None:
    with pytest.raises(ModelSourceError, match=says) as caught:
        resolve_model_source(model, [root])
    assert caught.value.param == "model"
    assert len(caught.value.message) < 600


def test_a_name_and_a_path_mean_the_same_folder(root: Path) -> None:
    by_name = resolve_model_source("good", [root])
    by_path = resolve_model_source(str(root / "good"), [root])
    assert by_name.path == by_path.path == (root / "good").resolve()
    assert (by_name.kind, by_name.revision, by_name.repository) == ("local", None, None)


def test_a_hub_id_needs_a_commit(root: Path) -> None:
    source = resolve_model_source(f"org/name@{COMMIT}", [root])
    assert (source.kind, source.path, source.revision) == ("hub", None, COMMIT)
    assert source.repository == "org/name"
    for model in ("org/name", "org/name@main", f"org/name@{COMMIT[:-1]}", f"org/name@{COMMIT}0"):
        refuse(model, root, "40 lower-case hex")


@pytest.mark.parametrize(
    "model",
    ["https://example.com/m", "http:m", "file:///etc", "s3://b/m", "data:x", "HTTPS://x"],
)
def test_urls_are_refused(root: Path, model: str) -> None:
    refuse(model, root, "URL")


@pytest.mark.parametrize("model", ["..", "../root/good", "a/../b", "good/..", "a\\b"])
def test_dots_are_refused(root: Path, model: str) -> None:
    refuse(model, root, r"\.\.|known form")


@pytest.mark.parametrize(
    "model", ["", " ", "good\n", "a/b/c", "göd", ".hidden", "good\0", "x" * 500]
)
def test_other_forms_are_refused(root: Path, model: str) -> None:
    refuse(model, root, "known form")


def test_unknown_names_list_what_is_there(root: Path) -> None:
    refuse("other", root, "Known checkpoints: good")
    refuse("other", root / "nothing", "roots are empty")


def test_paths_outside_the_roots_are_refused(root: Path, tmp_path: Path) -> None:
    outside = build(tmp_path / "outside")
    sibling = build(tmp_path / "root-2" / "good")
    for path in (outside, sibling, root, Path("/etc"), tmp_path / "nowhere"):
        refuse(str(path), root, "inside one of the configured model roots")
    refuse(f"{root}/../outside", root, r"\.\.")
    refuse(f"{root}/\0", root, "NUL")
    refuse(f"{root}/{'x' * 5000}", root, "inside one of")


def test_links_that_leave_the_roots_are_refused(root: Path, tmp_path: Path) -> None:
    outside = build(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    refuse("link", root, "leaves the model roots")
    refuse(str(root / "link"), root, "inside one of")
    for name in ("config.json", "model.safetensors", "chat_template.jinja"):
        folder = build(root / f"linked-{name.partition('.')[0]}")
        (folder / name).unlink(missing_ok=True)
        (outside / name).touch()
        (folder / name).symlink_to(outside / name)
        refuse(folder.name, root, "is a link that points outside")


def test_links_inside_the_roots_are_fine(root: Path) -> None:
    (root / "alias").symlink_to(root / "good")
    assert resolve_model_source("alias", [root]).path == (root / "good").resolve()


def test_a_loop_of_links_is_no_checkpoint(root: Path) -> None:
    (root / "loop").symlink_to(root / "loop")
    refuse("loop", root, "no checkpoint")
    refuse(str(root / "loop"), root, "inside one of")


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "PYTORCH.BIN"])
def test_pickles_are_refused(root: Path, name: str) -> None:
    (root / "good" / name).write_bytes(b"")
    refuse("good", root, "pickle.*safetensors")


def test_custom_code_is_refused(root: Path) -> None:
    build(root / "custom", auto_map={"AutoModel": "x.Y"})
    refuse("custom", root, "auto_map")
    (root / "good" / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "x"}}')
    refuse("good", root, "tokenizer_config.json has an auto_map")


@pytest.mark.parametrize("architectures", [None, [], ["Other"], "LlamaForCausalLM", [1], [{}]])
def test_unknown_architectures_are_refused(root: Path, architectures: Any) -> None:
    build(root / "other", architectures=architectures)
    refuse("other", root, "supported are GPT2LMHeadModel")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * 2**21])
def test_unreadable_configs_are_refused(root: Path, content: bytes) -> None:
    (root / "good" / "config.json").write_bytes(content)
    refuse("good", root, r"config\.json is")


def test_missing_files_are_refused(root: Path) -> None:
    (root / "good" / "model.safetensors").unlink()
    refuse("good", root, "no .*safetensors file")
    (root / "good" / "config.json").unlink()
    refuse("good", root, r"no config\.json")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "x.bin", 1])
def test_an_index_may_only_name_its_neighbours(root: Path, name: object) -> None:
    index = root / "good" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    resolve_model_source("good", [root])
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    refuse("good", root, r"index\.json names a file")
    index.write_text("{}")
    refuse("good", root, "weight_map")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_of_an_adapter_are_refused(root: Path, name: str) -> None:
    (root / "good" / name).write_text("{}")
    refuse("good", root, f"'{name}' is a file of a PEFT adapter")


@pytest.mark.timeout(20)
def test_a_fifo_is_refused(root: Path) -> None:
    os.mkfifo(root / "good" / "x.safetensors")
    refuse("good", root, "'x.safetensors' is not a regular file")


def test_a_second_set_of_weights_is_no_concern(root: Path) -> None:
    (root / "good" / "consolidated.safetensors").write_bytes(b"")
    (root / "good" / "original").mkdir()
    (root / "good" / "original" / "consolidated.00.pth").write_bytes(b"")
    assert resolve_model_source("good", [root]).path == (root / "good").resolve()


def test_a_config_that_names_other_weights_is_refused(root: Path) -> None:
    build(root / "other", transformers_weights="consolidated.safetensors")
    refuse("other", root, "transformers_weights.*Remove the field")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_key_given_twice_is_refused(root: Path, name: str) -> None:
    (root / "good" / name).write_text('{"auto_map": {"AutoModel": "x"}, "auto_map": {}}')
    refuse("good", root, f"{name} is ambiguous: the key 'auto_map' is given twice")


def test_the_first_root_wins(root: Path, tmp_path: Path) -> None:
    build(tmp_path / "second" / "good")
    extra = build(tmp_path / "second" / "extra")
    roots = [root, tmp_path / "second", tmp_path / "missing"]
    assert list_checkpoints(roots) == {"good": root / "good", "extra": extra}
    found = resolve_model_source("good", roots)
    assert found.path == (root / "good").resolve()


def test_every_described_architecture_is_allowed_and_no_other() -> None:
    described = {name for family in FAMILIES for name in family.architectures}
    assert described == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_model_beyond_anything_that_exists_is_refused(root: Path, name: str) -> None:
    build(root / "huge", **{name: 10**9})
    refuse("huge", root, f"has {name} 1000000000; at most")
