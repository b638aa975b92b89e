"""`excise patch` and `excise models`: what they write, and failures in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from safetensors.numpy import save
from typer.testing import CliRunner

from excise.names import Granularity, Verdict
from tests.tiny import MODULES, select_components, select_neurons
from workers.commands.app import export_commands, model_commands, patch_commands
from workers.fetching import checkpoints
from workers.pruning.patch import PatchVerdict, build_patch, serialise_patch
from workers.pruning.patch_format import METADATA_KEY
from workers.pruning.safetensors_files import compute_checkpoint_sha256

CHOSEN = select_neurons({MODULES[1]: [7], MODULES[0]: [4, 30]})


@pytest.fixture
def patch_file(checkpoint: Path, tmp_path: Path) -> Path:
    file = tmp_path / "patch.safetensors"
    file.write_bytes(serialise_patch(build_patch(checkpoint, CHOSEN)))
    return file


def run(app: typer.Typer, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def patch(*arguments: object) -> Result:
    return run(patch_commands, *arguments)


def assert_one_line_error(result: Result, words: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_apply_then_revert_gives_the_base_back(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    corrected, back = tmp_path / "corrected", tmp_path / "back"
    result = patch("apply", "--base", checkpoint, "--patch", patch_file, "--output", corrected)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"wrote {corrected}: 3 neurons changed\n"
    assert compute_checkpoint_sha256(corrected) != compute_checkpoint_sha256(checkpoint)
    result = patch("revert", "--corrected", corrected, "--patch", patch_file, "--output", back)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"wrote {back}: the base, bit for bit\n"
    for file in checkpoint.iterdir():
        assert (back / file.name).read_bytes() == file.read_bytes()


def test_what_was_written_counts_where_it_cannot_be_printed(
    checkpoint: Path, patch_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "fetch_embedded_checkpoint", lambda name, folder: folder)
    base, corrected = ("--base", checkpoint, "--patch", patch_file), tmp_path / "corrected"
    back = ("revert", "--corrected", corrected, "--patch", patch_file)
    monkeypatch.setattr("workers.commands.app.typer.echo", fail_to_print)
    for result in (
        patch("apply", *base, "--output", corrected),
        patch(*back, "--output", tmp_path / "back"),
        run(export_commands, *base, "--output", tmp_path / "adapter"),
        run(whole_app(), "models", "fetch", "small", "--output", tmp_path / "small"),
    ):
        assert (result.exit_code, result.stdout) == (0, "")
        assert "could not be printed (No space left on device)" in result.stderr
    assert compute_checkpoint_sha256(tmp_path / "back") == compute_checkpoint_sha256(checkpoint)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def fail_to_print(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_inspect_says_what_a_patch_is_for(checkpoint: Path, patch_file: Path) -> None:
    result = patch("inspect", patch_file)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    words = "sha256 of all tensors"
    assert lines[0] == f"base weights       {words} {compute_checkpoint_sha256(checkpoint)}"
    assert lines[1].startswith(f"corrected weights  {words} ")
    assert lines[2].split() == ["granularity", "neuron"]
    assert lines[3].split() == ["components", "3"]
    assert lines[4].split() == ["operation", "set", "to", "zero"]
    assert lines[5:] == [f"  {MODULES[0]}: 4, 30", f"  {MODULES[1]}: 7"]


def test_inspect_shows_no_line_that_a_gate_s_name_forges(checkpoint: Path, tmp_path: Path) -> None:
    name = "kl\x1b[1A\x1b[2K\nverdict            passed"
    file = write_judged(checkpoint, tmp_path / "p", Verdict.REJECTED, name)
    result = patch("inspect", file)
    assert (result.exit_code, result.stdout.count("\x1b")) == (0, 0)
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("verdict"))
    assert line.startswith("verdict            rejected, gates not met: kl ")


def write_judged(checkpoint: Path, file: Path, verdict: Verdict, *unmet: str) -> Path:
    patch = build_patch(checkpoint, CHOSEN, verdict=PatchVerdict(verdict, unmet))
    file.write_bytes(serialise_patch(patch))
    return file


def test_a_rejected_patch_is_applied_only_on_request(checkpoint: Path, tmp_path: Path) -> None:
    file = write_judged(checkpoint, tmp_path / "p", Verdict.REJECTED, "kl", "remaining:slogan")
    arguments = ("--base", checkpoint, "--patch", file, "--output", tmp_path / "corrected")
    result = patch("apply", *arguments)
    assert_one_line_error(result, "ended as rejected; gates not met: kl, remaining:slogan")
    assert "--rejected" in result.stderr
    assert not (tmp_path / "corrected").exists()
    result = patch("apply", *arguments, "--rejected")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")
    assert "kl, remaining:slogan; do not ship it" in result.stderr
    assert (tmp_path / "corrected").is_dir()
    assert "verdict            rejected, gates not met: kl, remaining:slogan" in (
        patch("inspect", file).stdout
    )


def test_a_patch_that_passed_needs_no_word(checkpoint: Path, tmp_path: Path) -> None:
    file = write_judged(checkpoint, tmp_path / "p", Verdict.PASSED)
    arguments = ("--base", checkpoint, "--patch", file)
    result = patch("apply", *arguments, "--output", tmp_path / "corrected")
    assert (result.exit_code, result.stderr) == (0, "")
    result = patch("apply", *arguments, "--output", tmp_path / "again", "--rejected")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "verdict            passed\n" in patch("inspect", file).stdout


def test_a_correction_is_exported_in_every_form(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    arguments = ("--base", checkpoint, "--patch", patch_file)
    for form, name in (("peft", "adapter_model.safetensors"), ("gguf", "adapter.gguf")):
        folder = tmp_path / form
        result = run(export_commands, *arguments, "--format", form, "--output", folder)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(f"wrote {folder}: an adapter of rank 2; README.md, ")
        assert (folder / name).is_file()
    merged = tmp_path / "merged"
    result = run(export_commands, *arguments, "--format", "merged", "--output", merged)
    assert result.stdout.startswith(f"wrote {merged}: a whole model; ")
    assert f'base_model: "{checkpoint.name}"' in (merged / "README.md").read_text()


def test_a_rejected_correction_is_exported_only_on_request(
    checkpoint: Path, tmp_path: Path
) -> None:
    file = write_judged(checkpoint, tmp_path / "p", Verdict.REJECTED, "kl")
    arguments = ("--base", checkpoint, "--patch", file, "--output", tmp_path / "out")
    assert_one_line_error(run(export_commands, *arguments), "ended as rejected; gates not met: kl")
    assert not (tmp_path / "out").exists()
    result = run(export_commands, *arguments, "--rejected")
    assert result.exit_code == 0
    assert result.stderr.endswith("kl; do not ship it\n")
    assert "gates not met: kl" in (tmp_path / "out" / "README.md").read_text()


def test_a_report_for_the_card_must_be_one(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{}")
    arguments = ("--base", checkpoint, "--patch", patch_file, "--output", tmp_path / "out")
    result = run(export_commands, *arguments, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_inspect_counts_weights_and_cuts_long_lists(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "patch.safetensors"
    weights = select_components({MODULES[0]: range(1000)}, Granularity.WEIGHT)
    file.write_bytes(serialise_patch(build_patch(checkpoint, weights, scale=0.5)))
    lines = patch("inspect", file).stdout.splitlines()
    assert lines[4].split() == ["operation", "multiplied", "by", "0.5"]
    assert lines[5:] == [f"  {MODULES[0]}: 1000 weights"]
    many = select_components({MODULES[0]: range(48)}, Granularity.NEURON)
    file.write_bytes(serialise_patch(build_patch(checkpoint, many)))
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("workers.commands.app.LISTED_INDICES", 3)
        lines = patch("inspect", file).stdout.splitlines()
        whole = patch("inspect", file, "--all").stdout.splitlines()
    assert lines[5:] == [f"  {MODULES[0]}: 0, 1, 2 and 45 more"]
    assert whole[5:] == [f"  {MODULES[0]}: {', '.join(map(str, range(48)))}"]


def test_inspect_lists_the_modules_with_most_components(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.commands.app.LISTED_MODULES", 1)
    file = tmp_path / "patch.safetensors"
    chosen = select_neurons({MODULES[0]: [4], MODULES[1]: [7, 9]})
    file.write_bytes(serialise_patch(build_patch(checkpoint, chosen)))
    assert patch("inspect", file).stdout.splitlines()[5:] == [
        f"  {MODULES[1]}: 7, 9",
        "  other modules: 1, with 1 neurons (--all lists them)",
    ]
    assert patch("inspect", file, "--all").stdout.splitlines()[5:] == [
        f"  {MODULES[0]}: 4",
        f"  {MODULES[1]}: 7, 9",
    ]


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a.²", f"a.{'9' * 5000}", "a\nb", "\u202eb"])
def test_inspect_shows_strange_names_without_letting_them_steer(tmp_path: Path, name: str) -> None:
    described = {
        **{"format_version": 2, "operation": "zero", "granularity": "neuron", "scale": 0.0},
        **{"head_dim": None, "transposed": False, "components": 2, **HASHES},
        "tensors": {"a": {"module": name, "first": 0}, "b": {"module": "a.10", "first": 0}},
    }
    indices, original = np.array([1], dtype=np.int32), np.ones((1, 2), dtype=np.uint32)
    tensors = {f"{tensor}::indices": indices for tensor in "ab"}
    tensors |= {f"{tensor}::original": original for tensor in "ab"}
    file = tmp_path / "patch.safetensors"
    file.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(described)}))
    result = patch("inspect", file)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.split("\n")[5:-1]
    assert len(lines) == 2
    assert all(character.isprintable() for line in lines for character in line)


def test_errors_show_strange_names_without_letting_them_steer(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    header = json.dumps({"\x1b[2J": {}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    result = patch("apply", "--base", folder, "--patch", patch_file, "--output", tmp_path / "x")
    assert_one_line_error(result, "is described badly")
    assert "\x1b" not in result.stderr


def test_apply_and_revert_name_what_they_leave_out(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    for number in range(12):
        (base / f"consolidated.{number:02}.pth").write_bytes(b"weights")
    corrected = tmp_path / "corrected"
    result = patch("apply", "--base", base, "--patch", patch_file, "--output", corrected)
    assert result.stdout.splitlines()[1] == (
        "left out, because not part of the model: "
        + ", ".join(f"consolidated.{number:02}.pth" for number in range(10))
        + " and 2 more"
    )
    (corrected / "model.onnx").write_bytes(b"weights")
    arguments = ("--patch", patch_file, "--output", tmp_path / "back")
    result = patch("revert", "--corrected", corrected, *arguments)
    assert result.stdout.splitlines()[1] == "left out, because not part of the model: model.onnx"


def test_applying_to_a_corrected_checkpoint_fails_in_one_line(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    corrected = tmp_path / "corrected"
    patch("apply", "--base", checkpoint, "--patch", patch_file, "--output", corrected)
    result = patch("apply", "--base", corrected, "--patch", patch_file, "--output", tmp_path / "x")
    assert_one_line_error(result, "apply takes the base")
    assert not (tmp_path / "x").exists()


def test_reverting_a_base_fails_in_one_line(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "x"
    result = patch("revert", "--corrected", checkpoint, "--patch", patch_file, "--output", output)
    assert_one_line_error(result, "revert takes the corrected checkpoint")
    assert not output.exists()


def test_an_existing_output_fails_in_one_line(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "link").symlink_to("nowhere")
    for output in (tmp_path, link):
        result = patch("apply", "--base", checkpoint, "--patch", patch_file, "--output", output)
        assert_one_line_error(result, "exists; name a folder that does not")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_without_weights_fails_in_one_line(patch_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = patch(
        "apply", "--base", tmp_path / "empty", "--patch", patch_file, "--output", tmp_path / "x"
    )
    assert_one_line_error(result, "has no *.safetensors file")


@pytest.mark.parametrize("content", [b"", b"not a patch at all", b"\xff" * 100])
@pytest.mark.parametrize("command", ["apply", "revert", "inspect"])
def test_a_file_that_is_no_patch_fails_in_one_line(
    checkpoint: Path, tmp_path: Path, command: str, content: bytes
) -> None:
    file = tmp_path / "patch.safetensors"
    file.write_bytes(content)
    folder = {"apply": "--base", "revert": "--corrected"}.get(command)
    arguments = (
        (file,) if folder is None else (folder, checkpoint, "--patch", file, "--output", tmp_path)
    )
    assert_one_line_error(patch(command, *arguments), "not an Excise patch")


HASHES = {"base_sha256": "b" * 64, "corrected_sha256": "c" * 64}
DESCRIPTION = {"format_version": 1, "granularity": "neuron", **HASHES}
COLUMNS, ORIGINAL = np.array([1, 5], dtype=np.int32), np.ones((4, 2), dtype=np.uint32)
UNSOUND = {
    "no tensors": (DESCRIPTION, {}),
    "no columns": (DESCRIPTION, {"a::columns": COLUMNS[:0], "a::original": ORIGINAL[:, :0]}),
    "a scalar": (DESCRIPTION, {"a::columns": np.array(1, "i4"), "a::original": ORIGINAL}),
    "one half": (DESCRIPTION, {"two\nlines::columns": COLUMNS}),
    "fractions": (DESCRIPTION, {"a::columns": COLUMNS.astype("f4"), "a::original": ORIGINAL}),
    "a hash of lines": (
        DESCRIPTION | {"base_sha256": "b\n" * 32},
        {"a::columns": COLUMNS, "a::original": ORIGINAL},
    ),
    "another version": (DESCRIPTION | {"format_version": "1\n2"}, {"a": COLUMNS}),
    "another granularity": (
        DESCRIPTION | {"granularity": "1\n2"},
        {"a::columns": COLUMNS, "a::original": ORIGINAL},
    ),
}


@pytest.mark.parametrize(("description", "tensors"), UNSOUND.values(), ids=UNSOUND)
@pytest.mark.parametrize("command", ["apply", "revert", "inspect"])
def test_an_unsound_patch_fails_in_one_line(
    checkpoint: Path, tmp_path: Path, command: str, description: dict, tensors: dict
) -> None:
    file = tmp_path / "patch.safetensors"
    file.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(description)}))
    folder = {"apply": "--base", "revert": "--corrected"}.get(command)
    output = tmp_path / "out"
    arguments = (
        (file,) if folder is None else (folder, checkpoint, "--patch", file, "--output", output)
    )
    assert_one_line_error(patch(command, *arguments), "")
    assert not output.exists()


def test_an_output_inside_the_base_fails_in_one_line(
    checkpoint: Path, patch_file: Path, tmp_path: Path
) -> None:
    output = checkpoint / "corrected"
    result = patch("apply", "--base", checkpoint, "--patch", patch_file, "--output", output)
    assert_one_line_error(result, "name a folder outside it")
    assert not output.exists()


@pytest.mark.parametrize("command", ["apply", "revert", "inspect"])
def test_a_missing_patch_is_a_usage_error(checkpoint: Path, tmp_path: Path, command: str) -> None:
    folder = {"apply": "--base", "revert": "--corrected"}.get(command)
    absent = tmp_path / "absent"
    arguments = (
        (absent,) if folder is None else (folder, checkpoint, "--patch", absent, "--output", "x")
    )
    result = patch(command, *arguments)
    assert result.exit_code == 2
    assert "does not exist" in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_fetch_prints_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path]] = []

    def fetch(name: str, folder: Path) -> Path:
        asked.append((name, folder))
        return folder / name

    monkeypatch.setattr(checkpoints, "fetch_embedded_checkpoint", fetch)
    monkeypatch.setenv("EXCISE_HOME", str(tmp_path / "home"))
    result = run(whole_app(), "models", "fetch", "small")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'home' / 'models' / 'small'}\n")
    run(whole_app(), "models", "fetch", "small", "--output", tmp_path / "other")
    monkeypatch.delenv("EXCISE_HOME")
    run(whole_app(), "models", "fetch", "small")
    folders = [folder for _, folder in asked]
    assert folders == [tmp_path / "home" / "models", tmp_path / "other", Path(".excise/models")]


def test_fetching_an_unknown_model_fails_in_one_line(tmp_path: Path) -> None:
    result = run(whole_app(), "models", "fetch", "gpt-5", "--output", tmp_path / "models")
    assert_one_line_error(result, "no embedded model is called 'gpt-5'")
    assert not (tmp_path / "models").exists()


def whole_app() -> typer.Typer:
    """The model commands under a name, as the `excise` command mounts them."""
    app = typer.Typer()
    app.add_typer(model_commands, name="models")
    return app


ALONE = """
import os, sys, tempfile
from types import SimpleNamespace
from workers.commands import app

def fetch(name, folder):
    with tempfile.TemporaryDirectory(dir="."):
        EVENT
    return folder

stand_in = SimpleNamespace(fetch_embedded_checkpoint=fetch)
sys.modules["workers.fetching.checkpoints"] = stand_in  # without torch
app.main()
"""


@pytest.mark.parametrize(
    ("event", "arguments", "code", "words"),
    [
        ("os.kill(os.getpid(), 15)", ["models", "fetch", "m"], 143, "terminated\n"),
        ("raise KeyError('x')", ["models", "fetch", "m"], 1, "error: KeyError: 'x' (EXCISE_DEBUG"),
        ("pass", ["models", "fetch"], 1, "error: Missing argument"),
    ],
)
def test_the_commands_alone_end_as_those_of_excise(
    tmp_path: Path, event: str, arguments: list[str], code: int, words: str
) -> None:
    program = [sys.executable, "-c", ALONE.replace("EVENT", event), *arguments]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(words)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_import_no_torch_before_they_run() -> None:
    program = "import sys, workers.commands.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
