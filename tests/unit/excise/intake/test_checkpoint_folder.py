"""Checkpoint folders: which files are the model, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from excise.intake import checkpoint_folder
from excise.intake.checkpoint_folder import (
    INDEX_NAME,
    CheckpointFolderError,
    WeightsMissingError,
    list_weight_files,
    read_checkpoint_folder,
)

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BESIDE = ("LICENSE", "README.md", "config.json", "merges.txt", "tokenizer.json", "tokenizer.model")
SECOND_SETS = (
    "consolidated.safetensors",
    "consolidated.00.pth",
    "consolidated.safetensors.index.json",
    "flax_model.msgpack",
    "model-00001-of-00003.safetensors",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.index.json",
    "other.gguf",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "weights.pt",
)


def write_index(folder: Path, *names: object) -> None:
    places = {f"tensor{position}": name for position, name in enumerate(names)}
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": places}))


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "sharded", *SHARDS, *BESIDE)
    write_index(folder, SHARDS[1], SHARDS[0], SHARDS[1])
    return folder


def names_of(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_the_weights_are_those_of_the_index(sharded: Path) -> None:
    fill(sharded, *SECOND_SETS, "original/consolidated.00.pth", "onnx/model.onnx")
    assert names_of(list_weight_files(sharded)) == list(SHARDS)
    files = read_checkpoint_folder(sharded)
    assert names_of(files.weights) == list(SHARDS)
    assert names_of(files.others) == sorted([*BESIDE, INDEX_NAME])
    assert files.left_out == tuple(sorted([*SECOND_SETS, "original", "onnx"]))


def test_without_an_index_they_are_the_one_file(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", "model.safetensors", "config.json", *SECOND_SETS)
    assert names_of(list_weight_files(folder)) == ["model.safetensors"]
    assert read_checkpoint_folder(folder).left_out == tuple(sorted(SECOND_SETS))


def test_an_index_of_the_one_file_is_fine(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", "model.safetensors")
    write_index(folder, "model.safetensors")
    assert names_of(list_weight_files(folder)) == ["model.safetensors"]
    assert names_of(read_checkpoint_folder(folder).others) == [INDEX_NAME]


def test_with_neither_they_are_all_that_are_not_known_for_something_else(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", "b.safetensors", "a.safetensors", "consolidated.safetensors")
    assert names_of(list_weight_files(folder)) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "name", ["consolidated.safetensors", "pytorch_model.bin", "x/model.safetensors"]
)
def test_weights_of_other_programs_alone_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsMissingError, match=r"save_pretrained"):
        list_weight_files(fill(tmp_path / "x", name))


def test_two_sets_that_programs_choose_between_differently_are_refused(sharded: Path) -> None:
    fill(sharded, "model.safetensors")
    with pytest.raises(CheckpointFolderError, match=r"both model\.safetensors and .*Delete"):
        list_weight_files(sharded)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "x.bin", 1, None, ["a"]])
def test_an_index_names_only_its_neighbours(sharded: Path, name: object) -> None:
    write_index(sharded, SHARDS[0], name)
    with pytest.raises(CheckpointFolderError, match="names a file that is not"):
        list_weight_files(sharded)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {"t": "a.safetensors", "t": "b.safetensors"}}', "'t' is given twice"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_an_index_that_is_none_is_refused(sharded: Path, content: str, says: str) -> None:
    (sharded / INDEX_NAME).write_text(content)
    with pytest.raises(CheckpointFolderError, match=says):
        list_weight_files(sharded)


def test_an_index_has_a_limit(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_folder, "MAX_INDEX_BYTES", 50)
    with pytest.raises(CheckpointFolderError, match="over 50 bytes"):
        list_weight_files(sharded)


def test_a_folder_has_a_limit(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_folder, "MAX_FILES", 3)
    for read in (list_weight_files, read_checkpoint_folder):
        with pytest.raises(CheckpointFolderError, match="more than 3 files"):
            read(sharded)


def test_a_shard_that_is_missing_is_named(sharded: Path) -> None:
    (sharded / SHARDS[1]).unlink()
    with pytest.raises(CheckpointFolderError, match=f"'{SHARDS[1]}' is missing"):
        list_weight_files(sharded)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [SHARDS[0], INDEX_NAME])
def test_a_fifo_in_a_files_place_is_not_waited_for(sharded: Path, name: str) -> None:
    (sharded / name).unlink()
    os.mkfifo(sharded / name)
    with pytest.raises(CheckpointFolderError, match="not a regular file"):
        list_weight_files(sharded)
    with pytest.raises(CheckpointFolderError, match=f"'{name}' is not a regular file"):
        read_checkpoint_folder(sharded)


@pytest.mark.timeout(20)
def test_a_fifo_beside_the_weights_is_no_weight_file_and_refused(sharded: Path) -> None:
    os.mkfifo(sharded / "x.safetensors")
    assert names_of(list_weight_files(sharded)) == list(SHARDS)
    with pytest.raises(CheckpointFolderError, match=r"'x\.safetensors' is not a regular file"):
        read_checkpoint_folder(sharded)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_files_of_an_adapter_are_refused(sharded: Path, name: str) -> None:
    fill(sharded, name)
    with pytest.raises(CheckpointFolderError, match=f"'{name}' is a file of a PEFT.*merge_and"):
        read_checkpoint_folder(sharded)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "notes", "additional_chat_templates/x.jinja"]
)
def test_a_link_out_of_the_folder_is_refused(sharded: Path, tmp_path: Path, name: str) -> None:
    secret = fill(tmp_path, "secret") / "secret"
    (sharded / name).parent.mkdir(exist_ok=True)
    (sharded / name).symlink_to(secret)
    with pytest.raises(CheckpointFolderError, match="is a link that points outside the folder"):
        read_checkpoint_folder(sharded)
    assert read_checkpoint_folder(sharded, [tmp_path])


def test_a_link_to_nothing_or_itself_is_refused(sharded: Path) -> None:
    (sharded / "a.json").symlink_to(sharded / "a.json")
    with pytest.raises(CheckpointFolderError, match=r"'a\.json' is a broken link"):
        read_checkpoint_folder(sharded)


def test_a_link_within_the_folder_is_fine(sharded: Path) -> None:
    (sharded / "NOTICE").symlink_to("LICENSE")
    assert sharded / "NOTICE" in read_checkpoint_folder(sharded).others


def test_a_snapshot_of_the_hubs_cache_may_link_to_its_blobs_alone(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    fill(repository / "blobs", "one", "two")
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/one")
    (snapshot / "config.json").symlink_to("../../blobs/two")
    files = read_checkpoint_folder(snapshot)
    files.copy(tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_text() == "two"
    assert not (tmp_path / "copy" / "config.json").is_symlink()
    (snapshot / "tokenizer.json").symlink_to(fill(repository, "refs").joinpath("refs"))
    with pytest.raises(CheckpointFolderError, match=r"'tokenizer\.json' is a link"):
        read_checkpoint_folder(snapshot)


def test_a_copy_holds_the_model_and_nothing_else(sharded: Path, tmp_path: Path) -> None:
    fill(sharded, *SECOND_SETS, "original/params.json", ".hidden.json", "run.py")
    fill(sharded, "additional_chat_templates/rag.jinja", "additional_chat_templates/x.bin")
    files = read_checkpoint_folder(sharded)
    files.copy(tmp_path / "copy")
    found = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")}
    templates = {"additional_chat_templates", "additional_chat_templates/rag.jinja"}
    assert found == {*SHARDS, *BESIDE, INDEX_NAME, *templates}
    assert set(files.left_out) == {*SECOND_SETS, "original", ".hidden.json", "run.py"}


@pytest.mark.parametrize("name", [SHARDS[1], "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_not_the_file(sharded: Path, name: str) -> None:
    (sharded / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"
    )
    with pytest.raises(CheckpointFolderError, match=f"{name}.*pointer of Git LFS.*git lfs pull"):
        read_checkpoint_folder(sharded)


def test_a_file_that_others_may_not_read_is_refused_with_what_to_do(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a checkpoint copied into a container with the modes that it had."""
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == SHARDS[0]:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    message = rf"{SHARDS[0]}' cannot be read: Permission denied\. .*chmod -R a\+rX FOLDER"
    with pytest.raises(CheckpointFolderError, match=message):
        read_checkpoint_folder(sharded)
