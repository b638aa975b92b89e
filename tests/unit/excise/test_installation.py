from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from excise import installation
from excise.installation import EXAMPLES, find_checkout
from service.commands.demo import DemoOptions, find_inputs
from service.embedded.processes import StackError
from service.embedded.stack import _build_import_path
from service.embedded.vllm import find_vllm

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the package `excise` lay here, without a checkout around it."""
    folder = tmp_path / "lib" / "site-packages"
    monkeypatch.setattr(installation, "__file__", str(folder / "excise" / "installation.py"))
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_examples_are_found_through_the_package_and_exist_once() -> None:
    assert Path(str(files("excise"))) / "examples" == EXAMPLES
    assert EXAMPLES.resolve() == ROOT / "examples"
    assert "gate/harmful.txt" in read_tree(EXAMPLES)


def test_the_demo_takes_its_inputs_from_the_package(tmp_path: Path) -> None:
    inputs = find_inputs(DemoOptions(home=tmp_path, output=tmp_path, data=tmp_path))
    for path in (inputs.undesired, inputs.reference, inputs.perplexity):
        assert path.parent == EXAMPLES


def test_an_installation_knows_no_checkout(installed: Path) -> None:
    assert find_checkout() is None
    assert _build_import_path({"PYTHONPATH": "own"}) == {}


def test_this_checkout_is_found() -> None:
    assert find_checkout() == ROOT
    assert _build_import_path({})["PYTHONPATH"] == str(ROOT)


def test_without_a_checkout_no_folder_beside_it_is_looked_into(
    installed: Path, tmp_path: Path
) -> None:
    data = installed.parent / "shared" / "data"
    data.mkdir(parents=True)
    (data / "wikitext2_test.txt").write_text("x")
    options = DemoOptions(home=tmp_path, output=tmp_path)
    assert find_inputs(options).perplexity == EXAMPLES / "perplexity.txt"
    own = DemoOptions(home=tmp_path, output=tmp_path, data=data)
    assert find_inputs(own).perplexity == data / "wikitext2_test.txt"


def test_without_a_checkout_vllm_has_to_be_named(installed: Path) -> None:
    with pytest.raises(StackError, match="Set EXCISE_VLLM"):
        find_vllm({})
