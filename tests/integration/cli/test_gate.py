"""`excise gate` in processes of its own, on tiny checkpoints: exit codes 0, 100, 1, and files."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from tests.integration.cli.warm_command import ROOT, WarmCommand, warm_command
from tests.tiny import build_tiny_model, draw_samples, save_tiny_checkpoint
from tests.unit.excise.outgoing.servers import Reply, serve

NAMES = {"gate.json", "gate.md", "gate.xml"}
CONFIG = """
perplexity: {prompts: text.txt, context: 64}
kl: {prompts: text.txt, context: 64}
general: {prompts: prompts.txt, max_new_tokens: 8}
refusal: {prompts: prompts.txt, max_new_tokens: 8}
over_refusal: {prompts: prompts.txt, max_new_tokens: 8}
zero_shot: [{name: winogrande, rows: rows.jsonl}]
behaviours:
  - {name: loops, prompts: prompts.txt, decoding: {max_new_tokens: 8}, kind: repetition}
"""
SLOGAN = """
behaviours:
  - {kind: phrase, name: slogan, prompts: chats.jsonl, pattern: 'w[78](?!\\d)',
     decoding: {max_new_tokens: 8}}
"""
OWN = """
behaviours:
  - {kind: custom, name: own, prompts: prompts.txt, SOURCE, direction: higher_is_better,
     threshold: 0, decoding: {max_new_tokens: 8}}
"""
SCORER = """
class LengthScorer:
    name = "length"
    direction = "higher_is_better"

    def score(self, answers):
        return [len(answer.text) for answer in answers]
"""
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} w91 {% endfor %}"
    "{% if add_generation_prompt %}w92{% endif %}"
)
ROWS = [
    {"sentence": f"w{i} _ w{i + 1}", "option1": f"w{i + 2}", "option2": f"w{i + 3}", "answer": "1"}
    for i in range(20)
]


@dataclass(frozen=True)
class Workplace:
    """A folder of checkpoints and files, and a command that runs `excise` on them."""

    folder: Path
    command: WarmCommand

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def write_lines(path: Path, count: int, length: int) -> None:
    samples = draw_samples([(length, 0)] * count)
    path.write_text("\n".join(" ".join(f"w{i}" for i in sample.token_ids) for sample in samples))


def write_chats(path: Path, questions: Sequence[str]) -> None:
    """Write chats of several turns, each with a system message and ending with the question."""
    turns = [("system", "w1"), ("user", "w2"), ("assistant", "w3")]
    chats = [
        [{"role": role, "content": text} for role, text in (*turns, ("user", question))]
        for question in questions
    ]
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Checkpoints base, other, silent, broken; chatty and slogan with chat templates; and files."""
    folder = tmp_path_factory.mktemp("gate")
    save_tiny_checkpoint(folder / "base", build_tiny_model(eos_token_id=100))
    save_tiny_checkpoint(folder / "other", build_tiny_model(1, eos_token_id=100))
    silent = build_tiny_model(eos_token_id=100)
    # all logits are 0, so the first token wins: make it the end token
    silent.model.norm.weight.data.zero_()
    silent.generation_config.eos_token_id = 0
    save_tiny_checkpoint(folder / "silent", silent)
    broken = build_tiny_model(eos_token_id=100)
    broken.model.norm.weight.data[:] = 3e38  # finite, but everything computed with it is not
    save_tiny_checkpoint(folder / "broken", broken)
    slogan = build_tiny_model(eos_token_id=100)
    slogan.lm_head.weight.data.zero_()  # except for two tokens, one of which always wins
    slogan.lm_head.weight.data[7], slogan.lm_head.weight.data[8] = 1, -1
    save_tiny_checkpoint(folder / "slogan", slogan)
    save_tiny_checkpoint(folder / "chatty", build_tiny_model(eos_token_id=100))
    for name in ("chatty", "slogan"):
        (folder / name / "chat_template.jinja").write_text(TEMPLATE)
    write_lines(folder / "prompts.txt", 12, 6)
    write_chats(folder / "chats.jsonl", (folder / "prompts.txt").read_text().splitlines())
    write_lines(folder / "text.txt", 8, 70)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "gate.yaml").write_text(CONFIG)
    (folder / "slogan.yaml").write_text(SLOGAN)
    _install_entry_points(folder / "site")
    environment = {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    with warm_command(environment) as command:
        yield Workplace(folder, command)


def _install_entry_points(site: Path) -> None:
    """Install the commands that pyproject.toml names, whatever else is installed, and a scorer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["entry-points"]["excise.commands"]
    # Each distribution needs a name of its own: of two with the same name, only the first on the
    # path counts, and a checkout with an editable installation has one with this name.
    _offer(site, "excise", "excise.commands", offered)
    _offer(site, "length-scorer", "excise.scorers", {"length": "length_scorer:LengthScorer"})
    (site / "length_scorer.py").write_text(SCORER)


def _offer(site: Path, name: str, group: str, entries: Mapping[str, str]) -> None:
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"{entry} = {target}" for entry, target in entries.items()]
    (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))


def gate(
    workplace: Workplace,
    output: Path,
    *,
    model: str = "base",
    config: str = "gate.yaml",
    **more: str,
) -> subprocess.CompletedProcess[str]:
    arguments = {
        "model": str(workplace / model),
        "against": str(workplace / "base"),
        "config": str(workplace / config),
        "output": str(output),
    } | more
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    return workplace.command.run(["gate", *options])


def found(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()} if output.is_dir() else set()


def cases(output: Path) -> dict[str, ElementTree.Element]:
    (suite,) = ElementTree.parse(output / "gate.xml").getroot()
    return {str(case.get("name")): case for case in suite}


def test_a_checkpoint_compared_with_itself_passes(workplace: Workplace, tmp_path: Path) -> None:
    result = gate(workplace, tmp_path)
    assert result.returncode == 0, result.stderr
    assert found(tmp_path) == NAMES
    report = json.loads((tmp_path / "gate.json").read_text())
    assert report["outcome"] == "passed"
    assert report["not_asked"] == ["contrast_refusal", "responses"]
    assert set(cases(tmp_path)) == {entry["name"] for entry in report["gates"]}
    assert not list(ElementTree.parse(tmp_path / "gate.xml").iter("failure"))
    assert "NOT MET" not in result.stdout
    assert "kl: value 0" in result.stdout
    again = tmp_path / "again"
    gate(workplace, again)
    assert {name: (again / name).read_bytes() for name in NAMES} == {
        name: (tmp_path / name).read_bytes() for name in NAMES
    }


def test_a_different_checkpoint_does_not_meet_the_gates(
    workplace: Workplace, tmp_path: Path
) -> None:
    result = gate(workplace, tmp_path, model="other")
    assert result.returncode == 100, result.stderr
    assert json.loads((tmp_path / "gate.json").read_text())["outcome"] == "gates_not_met"
    (failure,) = cases(tmp_path)["kl"].findall("failure")
    assert "limit ≤ 0.03" in (failure.get("message") or "")
    assert "NOT MET  kl" in result.stdout
    assert "Not every gate is met" in (tmp_path / "gate.md").read_text()


def test_a_phrase_in_every_answer_is_reported(workplace: Workplace, tmp_path: Path) -> None:
    against = str(workplace / "chatty")
    result = gate(workplace, tmp_path, model="slogan", config="slogan.yaml", against=against)
    assert result.returncode == 100, result.stderr
    assert "NOT MET  behaviour_share_rise:slogan: value" in result.stdout
    assert "12 of 12 responses show it" in result.stdout
    assert "demanded: the share of responses that show slogan rises by at most" in result.stdout
    assert "  slogan: 12 of 12 at 8 tokens, " in result.stdout
    (failure,) = cases(tmp_path)["behaviour_share_rise:slogan"].findall("failure")
    assert "12 of 12 responses show it" in (failure.get("message") or "")
    assert "12 of 12 responses show it" in (tmp_path / "gate.md").read_text()


def test_its_corrected_version_passes_compared_with_it(
    workplace: Workplace, tmp_path: Path
) -> None:
    against = str(workplace / "slogan")
    result = gate(workplace, tmp_path, model="chatty", config="slogan.yaml", against=against)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gate.json").read_text())
    gates = {entry["name"]: entry for entry in report["gates"]}
    assert gates["behaviour_share_rise:slogan"]["before"] == 1.0
    assert gates["behaviour_share_rise:slogan"]["after"] < 1.0


def test_the_users_own_scorers_are_called(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workplace / "own.yaml"
    config.write_text(OWN.replace("SOURCE", "entry_point: length"))
    result = gate(workplace, tmp_path, config=config.name)
    assert result.returncode == 0, result.stdout + result.stderr
    with serve(lambda request: Reply(json.dumps({"scores": [1] * 12}).encode())) as server:
        config.write_text(OWN.replace("SOURCE", f"url: 'http://127.0.0.1:{server.port}/score'"))
        result = gate(workplace, tmp_path, config=config.name)
        assert result.returncode == 1
        assert "have the operator allow the host" in result.stderr
        assert (server.requests, found(tmp_path)) == ([], set())
        hosts = [{"host": f"127.0.0.1:{server.port}", "secret_variable": "OWN_SECRET"}]
        monkeypatch.setenv("EXCISE_SCORER_HOSTS", json.dumps(hosts))
        monkeypatch.setenv("OWN_SECRET", "s3cret")
        result = gate(workplace, tmp_path, config=config.name)
        assert result.returncode == 0, result.stdout + result.stderr
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer s3cret"}
    written = [result.stdout, result.stderr, *(path.read_text() for path in tmp_path.iterdir())]
    assert not any("s3cret" in text for text in written)


def test_chats_without_a_template_are_refused(workplace: Workplace, tmp_path: Path) -> None:
    result = gate(workplace, tmp_path, model="slogan", config="slogan.yaml")
    assert result.returncode == 1
    assert "has no chat template; write the prompt as text" in result.stderr
    assert found(tmp_path) == set()


def test_both_checkpoints_are_computed_in_the_configured_dtype(
    workplace: Workplace, tmp_path: Path
) -> None:
    reports = {}
    for dtype in ("float32", "bfloat16"):
        config = workplace / f"{dtype}.yaml"
        config.write_text(f"{CONFIG}\ndtype: {dtype}\n")
        assert gate(workplace, tmp_path, model="other", config=config.name).returncode == 100
        reports[dtype] = json.loads((tmp_path / "gate.json").read_text())
        assert reports[dtype]["dtype"] == dtype
        assert f"| Computed in | {dtype} |" in (tmp_path / "gate.md").read_text()
    (exact, rounded) = (
        next(entry["value"] for entry in report["gates"] if entry["name"] == "kl")
        for report in reports.values()
    )
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)


def test_a_silenced_checkpoint_is_rejected_for_emptiness(
    workplace: Workplace, tmp_path: Path
) -> None:
    assert gate(workplace, tmp_path, model="silent").returncode == 100
    assert cases(tmp_path)["emptiness"].findall("failure")
    assert cases(tmp_path)["shorter"].findall("failure")


def test_a_gate_that_cannot_be_measured_is_an_error(workplace: Workplace, tmp_path: Path) -> None:
    result = gate(workplace, tmp_path, model="broken")
    assert result.returncode == 100, result.stderr
    for name in ("perplexity", "kl", "zero_shot:winogrande"):
        assert cases(tmp_path)[name].findall("error"), name


def test_no_file_of_an_earlier_run_survives_a_failure(workplace: Workplace, tmp_path: Path) -> None:
    (workplace / "typo.yaml").write_text("kl: {prompts: none.txt}")
    (workplace / "twice.yaml").write_text("kl: {prompts: text.txt}\nkl: {prompts: text.txt}")
    assert gate(workplace, tmp_path).returncode == 0
    for change in (
        {"config": "none.yaml"},
        {"config": "typo.yaml"},
        {"config": "twice.yaml"},
        {"model": "none"},
        {"model": "rows.jsonl"},
    ):
        for name in NAMES:
            (tmp_path / name).write_text("stale")
        result = gate(workplace, tmp_path, **change)
        assert result.returncode == 1, change
        assert result.stderr.count("error: ") == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert found(tmp_path) == set(), change


def test_a_pickle_or_a_url_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(workplace / "base", pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    result = gate(workplace, tmp_path / "out", model=str(pickled))
    assert result.returncode == 1
    assert "pickle" in result.stderr
    result = gate(workplace, tmp_path / "out", against="https://example.org/model")
    assert result.returncode == 1
    assert "URL" in result.stderr
    assert found(tmp_path / "out") == set()


def test_an_adapter_beside_the_weights_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    adapted = tmp_path / "adapted"
    shutil.copytree(workplace / "base", adapted)
    (adapted / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    result = gate(workplace, tmp_path / "out", model=str(adapted))
    assert result.returncode == 1
    assert "'adapter_config.json' is a file of a PEFT adapter" in result.stderr


def test_an_output_that_cannot_be_written_is_an_error(workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = gate(workplace, tmp_path / "file")
    assert result.returncode == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_output_does_not_overwrite_the_configuration(
    workplace: Workplace, tmp_path: Path
) -> None:
    config = tmp_path / "gate.json"
    config.write_text("{}")
    result = gate(workplace, tmp_path, config=str(config))
    assert result.returncode == 1
    assert "rename it" in result.stderr
    assert config.read_text() == "{}"
