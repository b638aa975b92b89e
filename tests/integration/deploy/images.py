"""Excise's images, built here from previously downloaded wheels, without network access."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.deploy.engine import (
    BASE_IMAGE,
    CACHE,
    SERVICES_IMAGE,
    ContainersUnavailableError,
    Engine,
)

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "deploy" / "images"
API, WORKER, VLLM = "excise-test/api", "excise-test/worker", "excise-test/vllm"
STAND_INS = "excise-test/stand-ins"

_PLATFORM = (
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3"),
    *(
        "--abi",
        "none",
        "--platform",
        "manylinux_2_28_x86_64",
        "--platform",
        "manylinux_2_17_x86_64",
    ),
    *("--platform", "manylinux2014_x86_64", "--platform", "linux_x86_64"),
    *("--platform", "manylinux_2_27_x86_64", "--platform", "manylinux_2_12_x86_64"),
    *("--platform", "manylinux2010_x86_64", "--platform", "manylinux_2_5_x86_64"),
    *("--platform", "manylinux1_x86_64", "--platform", "any"),
)
_DOWNLOAD_SECONDS = 550
_LOCKS = {"api": ("build", "api"), "worker": ("build", "worker-cpu"), "vllm": ()}
"""The lock files of each target."""


def build_image(engine: Engine, target: str, name: str) -> None:
    """Build one of our images from the repository's working tree."""
    with tempfile.TemporaryDirectory(prefix="excise-context-") as folder:
        context = _write_context(Path(folder), _LOCKS[target])
        engine.build(
            context,
            *("--file", str(context / "deploy/images/Containerfile"), "--target", target),
            *("--build-arg", f"PYTHON_IMAGE={BASE_IMAGE}", "--build-arg", "PIP_NO_INDEX=1"),
            *("--build-arg", f"VLLM_IMAGE={STAND_INS}", "--tag", name),
        )


def build_stand_ins(engine: Engine) -> None:
    """Build substitutes for the images of PostgreSQL, Valkey and HAProxy."""
    folder = Path(__file__).parent / "stand_ins"
    file = str(folder / "Containerfile")
    engine.build(
        folder, "--file", file, "--build-arg", f"BASE={SERVICES_IMAGE}", "--tag", STAND_INS
    )


def _write_context(folder: Path, locks: tuple[str, ...]) -> Path:
    """Write the tracked files, and the wheels that the lock files name."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    for lock in locks:
        for wheel in _download_wheels(IMAGES / f"{lock}.lock").iterdir():
            _link(wheel, folder / "deploy/images/wheels" / wheel.name)
    return folder


def _download_wheels(lock: Path) -> Path:
    """Return a folder outside the repository with a lock's wheels, checked by hash."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = CACHE / "wheels" / f"{lock.stem}-{digest}"
    if folder.is_dir():
        return folder
    fresh = folder.with_suffix(".new")
    arguments = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(fresh)),
        *(*_PLATFORM, "--requirement", str(lock)),
    ]
    try:
        subprocess.run(arguments, check=True, capture_output=True, timeout=_DOWNLOAD_SECONDS)
    except subprocess.SubprocessError as error:
        raise ContainersUnavailableError(f"{lock.name}'s wheels cannot be had: {error}") from None
    return fresh.rename(folder)


def _link(source: Path, target: Path) -> None:
    """Link the file under another name, or copy it if the file system differs."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
