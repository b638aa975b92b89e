"""What an export leaves: files for another tool, a card that says what they are, and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from excise.names import ExportForm, Granularity, Verdict
from excise.reports.correction import CorrectionReport, PatchSummary
from tests.unit.workers.publishing.cases import Pruned, build_pruned, build_pruned_weights
from tests.unit.workers.publishing.test_gguf_files import convert
from tests.unit.workers.reports.reports import rejected, report
from workers.pruning.patch import Patch, PatchError, PatchVerdict, serialise_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.pruning.selection import count_by_module, list_indices
from workers.publishing.adapters import AdapterError, build_adapter
from workers.publishing.exporting import Export, export_correction
from workers.publishing.gguf_files import GgufError


@pytest.fixture
def case(tmp_path: Path) -> Pruned:
    return build_pruned_weights("llama", tmp_path / "base")


def describe(case: Pruned, form: ExportForm = ExportForm.PEFT, base_model: str = "tiny") -> Export:
    return Export(serialise_patch(case.patch), case.folder, base_model, form)


def report_on(patch: Patch, **changes: object) -> CorrectionReport:
    """The report of the correction that made a patch."""
    known = report()
    summary = PatchSummary(
        granularity=patch.granularity,
        components=len(patch.selection),
        of=46080,
        modules={} if patch.granularity is Granularity.WEIGHT else list_indices(patch.selection),
        counts=count_by_module(patch.selection),
    )
    own = {
        "model": known.model.model_copy(update={"sha256": patch.base_sha256}),
        "patch": summary,
        "corrected_sha256": patch.corrected_sha256,
    }
    return known.model_copy(update=own | changes)


def read_card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def check_hashes(folder: Path) -> None:
    """Every file but the list itself is in it, with the hash it has."""
    listed = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    names = {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    assert listed.keys() == names
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_peft_adapter_is_the_one_that_is_published(case: Pruned, tmp_path: Path) -> None:
    done = export_correction(describe(case), tmp_path / "out")
    adapter = build_adapter(case.patch, case.folder, base_model="tiny")
    for name, content in adapter.files.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    assert (done.rank, set(done.files)) == (3, {*adapter.files, "README.md", "SHA256SUMS"})
    check_hashes(tmp_path / "out")
    card = read_card(tmp_path / "out")
    assert card.startswith('---\nbase_model: "tiny"\nbase_model_relation: adapter\n')
    assert "library_name: peft" in card
    count = f"{len(case.selection):,} weights in 14 modules"
    assert count in card
    assert "LoRA adapter of rank 3" in card
    assert case.patch.base_sha256 in card
    assert hashlib.sha256(serialise_patch(case.patch)).hexdigest() in card
    assert "The patch does not say how its job ended." in card


def test_a_merged_checkpoint_is_the_patched_one(case: Pruned, tmp_path: Path) -> None:
    (case.folder / "README.md").write_text("the base's own card")
    done = export_correction(describe(case, ExportForm.MERGED), tmp_path / "out")
    assert done.rank is None
    assert compute_checkpoint_sha256(tmp_path / "out") == case.patch.corrected_sha256
    check_hashes(tmp_path / "out")
    card = read_card(tmp_path / "out")
    assert "library_name: transformers" in card
    assert "adapter" not in card
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_a_gguf_is_an_adapter_or_the_whole_base(case: Pruned, tmp_path: Path) -> None:
    done = export_correction(describe(case, ExportForm.GGUF), tmp_path / "adapter")
    assert (done.rank, done.files) == (3, ("README.md", "SHA256SUMS", "adapter.gguf"))
    assert "--lora adapter.gguf" in read_card(tmp_path / "adapter")
    base_gguf = convert(case, tmp_path / "base.gguf")
    whole = replace(describe(case, ExportForm.GGUF), base_gguf=base_gguf)
    done = export_correction(whole, tmp_path / "whole")
    assert (done.rank, done.files) == (None, ("README.md", "SHA256SUMS", "model.gguf"))
    check_hashes(tmp_path / "whole")
    with pytest.raises(GgufError, match="is for gguf, not for peft"):
        export_correction(replace(whole, form=ExportForm.PEFT), tmp_path / "other")


def test_the_card_says_what_was_proved_and_what_was_not(case: Pruned, tmp_path: Path) -> None:
    found = report_on(case.patch)
    export_correction(replace(describe(case), report=found), tmp_path / "out")
    card = read_card(tmp_path / "out")
    assert f"**{found.verdict.value}**" in card
    for gate in found.gates:
        assert gate.name in card
    assert card.count("| yes |") == sum(gate.is_met for gate in found.gates)


def test_the_report_of_another_correction_is_refused(case: Pruned, tmp_path: Path) -> None:
    """Each of them alone shows it; reports of older versions have no hash of what was corrected."""
    judged = replace(case.patch, verdict=PatchVerdict(Verdict.REJECTED, ("refusals",)))
    export = describe(replace(case, patch=judged))
    own = report_on(judged, verdict=Verdict.REJECTED, gates=rejected().gates)
    assert own.patch is not None
    counts = own.patch.counts | {min(own.patch.counts): 1}
    others = {
        "base": {"model": report().model},
        "verdict": {"verdict": Verdict.PASSED, "gates": report().gates},
        "verdict ": {"gates": report().gates},
        "selection of components": {"patch": own.patch.model_copy(update={"counts": counts})},
        "selection of components ": {"patch": None},
        "corrected model": {"corrected_sha256": "0" * 64},
    }
    for what, changes in others.items():
        other = replace(export, report=own.model_copy(update=changes))
        with pytest.raises(ValueError, match=f"the report is of another {what.strip()} than the"):
            export_correction(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name, found in (("new", own), ("old", own.model_copy(update={"corrected_sha256": None}))):
        export_correction(replace(export, report=found), tmp_path / name)
        assert "**rejected**" in read_card(tmp_path / name)


def test_the_report_of_other_neurons_as_many_is_refused(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base")
    own = report_on(case.patch)
    assert own.patch is not None
    moved = {name: [index + 1 for index in found] for name, found in own.patch.modules.items()}
    other = own.model_copy(update={"patch": own.patch.model_copy(update={"modules": moved})})
    with pytest.raises(ValueError, match="another selection of components"):
        export_correction(replace(describe(case), report=other), tmp_path / "out")
    export_correction(replace(describe(case), report=own), tmp_path / "out")


def test_names_cannot_break_out_of_the_card(case: Pruned, tmp_path: Path) -> None:
    name = 'x"\nlicense: mit\n---\n# <script>|`y`'
    export_correction(describe(case, base_model=name), tmp_path / "out")
    header = read_card(tmp_path / "out").split("---\n")[1]
    assert [line.partition(":")[0] for line in header.splitlines() if ":" in line] == [
        "base_model",
        "base_model_relation",
        "library_name",
        "tags",
    ]
    assert "\n# <script>" not in read_card(tmp_path / "out")


def test_a_verdict_in_the_patch_is_told(case: Pruned, tmp_path: Path) -> None:
    judged = replace(case.patch, verdict=PatchVerdict(Verdict.REJECTED, ("kl",)))
    export_correction(describe(replace(case, patch=judged)), tmp_path / "out")
    assert "ended as rejected; gates not met: kl" in read_card(tmp_path / "out")


def test_what_cannot_be_leaves_nothing_behind(case: Pruned, tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="lies inside"):
        export_correction(describe(case), case.folder / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="name a folder that does not"):
        export_correction(describe(case), tmp_path / "there")
    mixture = build_pruned("mixtral", tmp_path / "mixture")
    with pytest.raises(AdapterError, match="holds experts"):
        export_correction(describe(mixture), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "there", "mixture"}
