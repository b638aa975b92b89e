"""What the images are built from agrees with what everything is tested with."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "deploy" / "images"
EXTRAS = {
    "api": ["service"],
    "worker-cpu": ["service", "worker"],
    "worker-cuda": ["service", "worker"],
}
REMEDY = "run scripts/lock_images.sh .venv/bin/python"


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> dict[str, str]:
    pins = re.findall(r"^([\w.-]+)==([^\s\\;]+)", path.read_text(), re.MULTILINE)
    return {normalise(name): version for name, version in pins}


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_every_file_of_a_lock_has_a_hash(name: str) -> None:
    text = (IMAGES / f"{name}.lock").read_text()
    entries = re.split(r"\n(?=\w)", text)[1:]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert "index-url" not in text
    assert "find-links" not in text


@pytest.mark.parametrize("name", EXTRAS)
def test_the_versions_are_those_of_the_constraints(name: str) -> None:
    constraints = read_pins(ROOT / "constraints.txt")
    for package, version in read_pins(IMAGES / f"{name}.lock").items():
        assert constraints.get(package, version) == version, f"{package}: {REMEDY}"


@pytest.mark.parametrize("name", EXTRAS)
def test_everything_that_is_asked_for_is_locked(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(part for extra in EXTRAS[name] for part in extras[extra])]
    names = {normalise(re.match(r"[\w.-]+", part)[0]) for part in asked}  # type: ignore[index]
    missing = names - read_pins(IMAGES / f"{name}.lock").keys() - {"excise"}
    assert not missing, REMEDY


def test_torch_is_the_installers() -> None:
    installer = (ROOT / "scripts" / "install.sh").read_text()
    [cpu] = re.findall(r"torch_cpu='([^']+)'", installer)
    assert read_pins(IMAGES / "worker-cpu.lock")["torch"] == cpu, REMEDY
    assert read_pins(IMAGES / "worker-cuda.lock")["torch"] == cpu.removesuffix("+cpu"), REMEDY
    assert not [name for name in read_pins(IMAGES / "api.lock") if name == "torch"]


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """A `vllm` that prints its arguments, first in PATH."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$VLLM_ALLOW_RUNTIME_LORA_UPDATING $@"\n')
    program.chmod(0o755)
    return program.parent


def serve(vllm: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(IMAGES / "serve-vllm.sh"), *arguments],
        env={"PATH": f"{vllm}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_server_of_adapters_has_the_flags_the_canary_needs(vllm: Path) -> None:
    shown = serve(vllm, "/m", "--x", VLLM_API_KEY="k", EXCISE_MAX_SLOTS="6").stdout
    assert shown.startswith("True serve /m --served-model-name base --host 0.0.0.0 --port 8000")
    assert "--enable-lora --max-loras 6 --max-cpu-loras 6 --max-lora-rank 16 --x" in shown
    assert "k" not in shown.split()
    narrow = serve(vllm, "/m", "--x", VLLM_API_KEY="k", EXCISE_TARGET_MODULES="fc2").stdout
    assert "--max-lora-rank 16 --lora-target-modules fc2 --x" in narrow


def test_a_server_of_one_checkpoint_takes_no_adapters(vllm: Path) -> None:
    shown = serve(vllm, "/m", VLLM_API_KEY="k", EXCISE_POOL_KIND="checkpoint").stdout
    assert "lora" not in shown
    assert not shown.startswith("True")


def test_a_server_needs_a_key_and_a_known_kind(vllm: Path) -> None:
    without = serve(vllm, "/m")
    assert without.returncode == 2
    assert "VLLM_API_KEY is not set" in without.stderr
    unknown = serve(vllm, "/m", VLLM_API_KEY="k", EXCISE_POOL_KIND="both")
    assert unknown.returncode == 2
    assert "lora or checkpoint" in unknown.stderr
