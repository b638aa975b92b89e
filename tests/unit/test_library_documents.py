"""Notebooks and the library's guide run from top to bottom, on a tiny model of the same name."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.faulty import build_faulty_model, draw_rows
from tests.unit.workers.library.cases import (
    REFERENCE,
    UNDESIRED,
    draw_texts,
)

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
GUIDE = ROOT / "docs" / "guides" / "library.md"
NAME = "smollm2-135m-instruct"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PARAMETERS: dict[str, dict[str, Any]] = {
    "correction": {
        "undesired": UNDESIRED,
        "reference": REFERENCE,
        "settings": {"attribution": {"granularity": "neuron"}},
    },
    "circuit": {
        "task": draw_rows(),
        "settings": {"attributors": ["attnlrp", "random"], "rows": 24},
    },
    "compression": {
        "calibration": {"prompts": REFERENCE, "samples": 8, "tokens": 32},
        "corpus": {"prompts": draw_texts(20, 40, seed=5), "context": 32, "sequences": 8},
    },
}
"""What a test puts in place of each notebook's own parameters."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the texts, and the tiny model under the name of the real one."""
    build_faulty_model(tmp_path / "home" / "models" / NAME, "weight")
    monkeypatch.setenv("EXCISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCISE_MODEL_ROOTS", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("undesired", "repetition_prompts"):
        (tmp_path / f"{name}.txt").write_text("\n".join(UNDESIRED))
    for name in ("reference", "perplexity"):
        (tmp_path / f"{name}.txt").write_text("\n".join(REFERENCE))
    return tmp_path


def read_cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(source: str, where: str, names: dict[str, Any]) -> Any:
    """Run a cell; what its last line's value is, as a notebook shows it."""
    tree = ast.parse(source, where)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, where, "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), where, "exec"), names)
    return eval(compile(ast.Expression(last.value), where, "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_report(path: Path, home: Path) -> None:
    names: dict[str, Any] = {}
    shown = []
    for number, cell in enumerate(read_cells(path)):
        shown.append(run("".join(cell["source"]), f"{path.name}, cell {number}", names))
        if cell["metadata"].get("tags") == ["parameters"]:
            assert PARAMETERS[path.stem].keys() <= names.keys()
            names |= PARAMETERS[path.stem]
    reports = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(reports) == 1
    assert "srcdoc" in reports[0]
    assert (home / f"{path.stem}-output" / "report.html").is_file()
    assert (home / f"{path.stem}-output" / "checkpoint").is_dir()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept_in_a_notebook(path: Path) -> None:
    for cell in read_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_every_snippet_of_the_guide_runs(home: Path) -> None:
    names: dict[str, Any] = {}
    for number, source in enumerate(_BLOCK.findall(GUIDE.read_text(encoding="utf-8"))):
        run(source, f"library.md, snippet {number}", names)
    assert names["outcome"].verdict == names["again"].verdict == "passed"
    assert names["circuit"].verdict == "passed"
    assert (home / "corrected" / "checkpoint" / "model.safetensors").is_file()
