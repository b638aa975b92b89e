"""The figures of a base, kept: a second run takes them up, and anything doubtful is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from excise.reports.gate_run import GateReport
from tests.tiny import build_tiny_model, draw_samples, save_tiny_checkpoint
from tests.unit.excise.outgoing.servers import Reply, Request, serve
from workers.abilities.catalogue import SLICES, ProbeSource
from workers.commands.gate.base import BaseCheckpoint, BaseMeasurer
from workers.commands.gate.cache import FORMAT, FigureCache
from workers.commands.gate.compare import build_files, compare_checkpoints
from workers.commands.gate.config import load_config
from workers.commands.gate.contents import read_contents, require_unchanged
from workers.commands.gate.errors import CheckpointChangedError
from workers.commands.gate.keys import compute_measure_sha256
from workers.measuring.measurement import CheckPlan
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

CONFIG = """
perplexity: {prompts: text.txt, context: 64}
kl: {prompts: text.txt, context: 64}
general: {prompts: prompts.txt, max_new_tokens: 8}
zero_shot: [{name: winogrande, rows: rows.jsonl}]
abilities: null
behaviours:
  - {name: parroting, kind: phrase, prompts: prompts.txt, pattern: 'w[78](?!\\d)',
     decoding: {max_new_tokens: 8}}
"""
ROWS = [
    {"sentence": f"w{i} _ w{i + 1}", "option1": f"w{i + 2}", "option2": f"w{i + 3}", "answer": "1"}
    for i in range(8)
]
FROM_CACHE = "taking the figures of"


def write_words(path: Path, count: int, length: int, first: int = 0) -> None:
    samples = draw_samples([(length, 0)] * (first + count))[first:]
    path.write_text("\n".join(" ".join(f"w{i}" for i in sample.token_ids) for sample in samples))


class Workplace:
    """Two checkpoints, a configuration with its files, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        save_tiny_checkpoint(folder / "base")
        save_tiny_checkpoint(folder / "other", build_tiny_model(1))
        write_words(folder / "prompts.txt", 6, 6)
        write_words(folder / "text.txt", 4, 70)
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        self.configure(CONFIG)

    def configure(self, config: str) -> None:
        (self.folder / "gate.yaml").write_text(config)

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "cache").glob("*.figures"))

    def run(self, *, cached: bool = True, model: str = "other") -> GateReport:
        self.said.clear()
        path = self.folder / "gate.yaml"
        return compare_checkpoints(
            str(self.folder / model),
            str(self.folder / "base"),
            load_config(path),
            build_files(path),
            "cpu",
            self.said.append,
            FigureCache(self.folder / "cache") if cached else None,
        )

    @property
    def was_hit(self) -> bool:
        return any(line.startswith(FROM_CACHE) for line in self.said)


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def strip(report: GateReport) -> GateReport:
    return report.model_copy(update={"is_against_cached": False})


def test_a_second_run_measures_the_base_no_more_and_finds_the_same(work: Workplace) -> None:
    work.configure(CONFIG.replace("abilities: null", "abilities: {max_nats_rise: 0.001}"))
    without = work.run(cached=False)
    assert work.files == []
    first = work.run()
    assert not work.was_hit
    second = work.run()
    assert work.was_hit
    assert (first.is_against_cached, second.is_against_cached) == (False, True)
    assert strip(first) == strip(second) == without
    assert not any(gate.unmeasured for gate in without.gates)


def test_another_candidate_meets_the_same_figures(work: Workplace) -> None:
    work.run()
    report = work.run(model="base")
    assert work.was_hit
    kl = next(gate for gate in report.gates if gate.name == "kl")
    assert kl.value == pytest.approx(0, abs=1e-6)


def damage_nothing_but_the_end(content: bytes, key: str) -> bytes:
    return content[:-1]


def flip(content: bytes, key: str) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def sign_rubbish(content: bytes, key: str) -> bytes:
    payload = b"no safetensors"
    return FORMAT + hashlib.sha256(key.encode() + b"\0" + payload).hexdigest().encode() + payload


@pytest.mark.parametrize(
    "damage", [damage_nothing_but_the_end, flip, sign_rubbish, lambda content, key: b""]
)
def test_damaged_figures_are_measured_anew(
    work: Workplace, damage: Callable[[bytes, str], bytes]
) -> None:
    first = work.run()
    for path in work.files:
        path.write_bytes(damage(path.read_bytes(), path.stem))
    assert strip(work.run()) == first
    assert not work.was_hit
    work.run()
    assert work.was_hit


def test_figures_under_another_keys_name_are_measured_anew(work: Workplace) -> None:
    work.run()
    (others,) = work.files
    change_weights(work)
    without = work.run(cached=False)
    work.run()
    (own,) = set(work.files) - {others}
    own.write_bytes(others.read_bytes())
    assert strip(work.run()) == without
    assert not work.was_hit
    work.run()
    assert work.was_hit


def change_weights(work: Workplace) -> None:
    save_tiny_checkpoint(work.folder / "base", build_tiny_model(2))


def change_template(work: Workplace) -> None:
    (work.folder / "base" / "chat_template.jinja").write_text("{{ messages[-1]['content'] }} w1")


def change_model_settings(work: Workplace) -> None:
    path = work.folder / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.1}))


def change_prompts(work: Workplace) -> None:
    write_words(work.folder / "prompts.txt", 6, 6, first=1)


def change_text(work: Workplace) -> None:
    write_words(work.folder / "text.txt", 4, 70, first=1)


def change_rows(work: Workplace) -> None:
    (work.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[:5])))


def change_decoding(work: Workplace) -> None:
    work.configure(CONFIG.replace("max_new_tokens: 8", "max_new_tokens: 9"))


def change_dtype(work: Workplace) -> None:
    work.configure(CONFIG + "dtype: bfloat16\n")


def change_seed(work: Workplace) -> None:
    work.configure(CONFIG + "seed: 1\n")


@pytest.mark.parametrize(
    "change",
    [
        change_weights,
        change_template,
        change_model_settings,
        change_prompts,
        change_text,
        change_rows,
        change_decoding,
        change_dtype,
        change_seed,
    ],
)
def test_whatever_figures_depend_on_is_measured_anew(
    work: Workplace, change: Callable[[Workplace], None]
) -> None:
    work.run()
    change(work)
    found = work.run()
    assert not work.was_hit
    assert found == work.run(cached=False)


def test_another_program_or_device_measures_anew(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.run()
    with monkeypatch.context() as patch:
        patch.setattr("workers.commands.gate.keys.hash_source", lambda: "another")
        work.run()
        assert not work.was_hit
    with monkeypatch.context() as patch:
        patch.setattr("workers.commands.gate.keys.describe_device", lambda device: {})
        work.run()
        assert not work.was_hit
    work.run()
    assert work.was_hit


def test_limits_may_change_for_they_judge_the_same_figures(work: Workplace) -> None:
    work.run()
    work.configure(
        CONFIG.replace("context: 64}", "context: 64, max_mean: 9}", 2).replace(
            "perplexity: {prompts: text.txt, context: 64, max_mean: 9}",
            "perplexity: {prompts: text.txt, context: 64, max_increase: 9}",
        )
    )
    report = work.run()
    assert work.was_hit
    assert {gate.limit for gate in report.gates if gate.name in {"kl", "perplexity"}} == {9}


def test_what_a_scorer_says_is_never_kept(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter((0.0, 0.0, 1.0, 1.0))  # base and candidate, then both once more

    def score(request: Request) -> Reply:
        count = len(json.loads(request.body)["answers"])
        return Reply(json.dumps({"scores": [next(answers)] * count}).encode())

    with serve(score) as server:
        host = f"127.0.0.1:{server.port}"
        monkeypatch.setenv("EXCISE_SCORER_HOSTS", json.dumps([{"host": host}]))
        work.configure(
            "abilities: null\nbehaviours: [{kind: custom, name: own, prompts: prompts.txt, "
            f"url: 'http://{host}/score', direction: lower_is_better, threshold: 1, "
            "max_share: 0.5, max_share_rise: null, decoding: {max_new_tokens: 8}}]"
        )
        assert work.run().outcome == "passed"
        assert work.run().outcome == "gates_not_met"
    assert work.was_hit


def test_a_second_look_at_the_base_is_kept_as_well(work: Workplace) -> None:
    said: list[str] = []
    folder = work.folder / "base"
    checkpoint = BaseCheckpoint("base", folder, read_contents(folder), torch.float32, "cpu")
    loaded = checkpoint.load()
    source = ProbeSource(loaded.tokenizer, 0, 60, SLICES[:1], loaded.context_length)
    plan, more = CheckPlan(abilities=source.draw()), source.draw_more([SLICES[0].name], 2)
    assert more
    found = []
    for _ in range(2):
        measurer = BaseMeasurer(checkpoint, FigureCache(work.folder / "cache"), said.append)
        measurer.measure(plan, loaded, compute_measure_sha256(plan, "float32"))
        found.append(measurer.measure_more(more))
        (folder / "model.safetensors").write_bytes(b"")  # a second look cannot load it again
    assert found[0] == found[1]
    assert measurer.is_from_cache


def replace_when(work: Workplace, monkeypatch: pytest.MonkeyPatch, name: str, place: str) -> None:
    """Put other weights into the folder `name` as soon as it was loaded through `place`."""

    def load_and_replace(folder: Path, *options: Any) -> LoadedModel:
        loaded = load_checkpoint(folder, *options)
        if folder.name == name:
            save_tiny_checkpoint(folder, build_tiny_model(3))
        return loaded

    monkeypatch.setattr(f"{place}.load_checkpoint", load_and_replace)


@pytest.mark.parametrize(
    ("name", "place"),
    [("other", "workers.commands.gate.compare"), ("base", "workers.commands.gate.base")],
)
@pytest.mark.parametrize("cached", [True, False])
def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, name: str, place: str, cached: bool
) -> None:
    replace_when(work, monkeypatch, name, place)
    with pytest.raises(CheckpointChangedError, match=rf"{name} was changed .*its weights had"):
        work.run(cached=cached)
    assert bool(work.files) is (cached and name == "other")  # the base's own figures are sound


def test_a_base_that_changes_before_it_is_loaded_leaves_no_figures(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = BaseCheckpoint.load

    def replace_and_load(self: BaseCheckpoint) -> LoadedModel:
        change_template(work)
        return load(self)

    monkeypatch.setattr(BaseCheckpoint, "load", replace_and_load)
    with pytest.raises(CheckpointChangedError, match=r"other than before: chat_template\.jinja"):
        work.run()
    assert work.files == []


def test_a_checkpoint_that_is_gone_meanwhile_is_refused(work: Workplace) -> None:
    folder = work.folder / "other"
    before = read_contents(folder)
    require_unchanged("other", folder, before)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointChangedError, match=r"can no longer be read: .*Judge a copy"):
        require_unchanged("other", folder, before)


def test_what_could_not_be_measured_is_not_kept(work: Workplace) -> None:
    work.configure(
        CONFIG.replace("kl: {prompts: text.txt, context: 64}", "").replace(
            "context: 64",
            "context: 300",  # the checkpoints read 256 tokens
        )
    )
    write_words(work.folder / "text.txt", 1, 700)
    report = work.run()
    assert next(gate for gate in report.gates if gate.name == "perplexity").unmeasured
    assert work.files == []


def test_a_folder_that_takes_nothing_is_said_and_judges_all_the_same(work: Workplace) -> None:
    (work.folder / "cache").write_text("a file where the folder should be")
    report = work.run()
    assert any("could not be kept" in line for line in work.said)
    assert report == work.run(cached=False)
