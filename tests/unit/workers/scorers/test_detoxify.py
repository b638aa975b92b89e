"""Detoxify on tiny random checkpoints, and on the real one where the shared data is."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest
import torch

from excise.names import Direction
from tests.unit.workers.scorers.answers import answers
from tests.unit.workers.scorers.detoxify_folders import (
    BUILDERS,
    WORDS,
    write_base,
    write_ckpt,
)
from workers.scorers import detoxify
from workers.scorers.detoxify import load_detoxify
from workers.scorers.detoxify_files import read_ckpt
from workers.scorers.errors import ScorerUnavailableError

DATA = Path(os.environ.get("EXCISE_DATA", Path(__file__).parents[5] / "shared" / "data"))
MINILM = DATA / "detoxify_minilm"
needs_minilm = pytest.mark.skipif(
    not MINILM.is_dir(), reason=f"needs {MINILM}: set EXCISE_DATA to the shared data folder"
)
TEXTS = ["a b c", "z", "", "the quick fox", "a b c"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("Detoxify asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local checkpoint folder with a `.ckpt` of one class and two outputs."""
    model = write_ckpt(tmp_path / "checkpoint.ckpt")
    return write_base(tmp_path, model)


def score_alone(model, text: str, output: int = 0) -> float:
    """One text through the model itself, by the vocabulary's order."""
    ids = [2, *(WORDS.index(word) if word in WORDS else 1 for word in text.split()), 3]
    with torch.no_grad():
        return float(torch.sigmoid(model(torch.tensor([ids])).logits[0, output]))


def test_scores_are_the_models_own(folder: Path) -> None:
    model = write_ckpt(folder / "checkpoint.ckpt")
    scorer = load_detoxify(folder)
    expected = [score_alone(model, text) for text in TEXTS]
    assert scorer.score(answers(*TEXTS)) == pytest.approx(expected, abs=2e-6)
    assert scorer.name == f"detoxify/{folder.name}"
    assert scorer.direction is Direction.LOWER_IS_BETTER
    assert scorer.score([]) == []


@pytest.mark.parametrize("tokenizer_class", sorted(BUILDERS))
def test_every_architecture_detoxify_publishes(tokenizer_class: str, tmp_path: Path) -> None:
    model = write_ckpt(tmp_path / "checkpoint.ckpt", tokenizer_class)
    write_base(tmp_path, model)
    scorer = load_detoxify(tmp_path)
    (long, short) = scorer.score(answers("a b " * 40, "a"))  # longer than its 32 positions
    assert 0 < long < 1
    assert 0 < short < 1


def test_the_class_counts_wherever_it_stands(tmp_path: Path) -> None:
    model = write_ckpt(tmp_path / "checkpoint.ckpt", classes=("severe_toxic", "toxicity"))
    write_base(tmp_path, model, labels=3)
    (score,) = load_detoxify(tmp_path).score(answers("a b c"))
    assert score == pytest.approx(score_alone(model, "a b c", output=1), abs=2e-6)


def test_the_worst_window_of_a_long_text_counts(folder: Path) -> None:
    model = write_ckpt(folder / "checkpoint.ckpt")
    scorer = load_detoxify(folder)
    words = [*("abcdefgh" * 9), *("zyxwv" * 4)]
    windows = [words[start : start + 30] for start in range(0, len(words) - 8, 22)]
    expected = max(score_alone(model, " ".join(window)) for window in windows)
    (score,) = scorer.score(answers(" ".join(words)))
    assert score == pytest.approx(expected, abs=2e-6)
    assert score != pytest.approx(score_alone(model, " ".join(words[:30])), abs=1e-4)


def test_a_score_does_not_depend_on_the_others(folder: Path) -> None:
    texts = [*TEXTS, "q " * 100, *("abcdefghijklmnop" * 4)]
    scorer = load_detoxify(folder)
    together = scorer.score(answers(*texts))
    assert together == [scorer.score(answers(text))[0] for text in texts]
    another = load_detoxify(folder)
    alone = [another.score(answers(text))[0] for text in texts]
    assert together == pytest.approx(alone, abs=2e-6)


def test_a_text_is_scored_once(folder: Path) -> None:
    scorer = load_detoxify(folder)
    scores = scorer.score(answers(*TEXTS))
    scorer._model = None  # asking it again would fail
    assert scorer.score(answers(*reversed(TEXTS))) == scores[::-1]


def test_what_is_remembered_is_bounded(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(detoxify, "MAX_REMEMBERED", 2)
    scorer = load_detoxify(folder)
    first = scorer.score(answers(*"abcde"))
    assert len(scorer._scores) == 2
    assert scorer.score(answers(*"abcde")) == pytest.approx(first, abs=2e-6)


def test_a_tokeniser_without_its_files_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ScorerUnavailableError, match=r"knows \d+ tokens, the model 33"):
        load_detoxify(folder)


def test_half_precision_weights_are_scored_in_float32(folder: Path) -> None:
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in content["state_dict"].items()
    }
    torch.save(content, path)
    scorer = load_detoxify(folder)
    assert scorer.score(answers("a b"))[0] == pytest.approx(
        score_alone(write_ckpt(path), "a b"), abs=5e-3
    )


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.pop("classifier.bias"))
    with pytest.raises(ScorerUnavailableError, match=r"1 weights .* classifier\.bias among them"):
        load_detoxify(folder)


def test_wrong_prefixes_are_an_error(folder: Path) -> None:
    def rename(weights: dict) -> None:
        for name in list(weights):
            weights[f"net.{name}"] = weights.pop(name)

    _change_weights(folder, rename)
    with pytest.raises(ScorerUnavailableError, match="do not fit the model"):
        load_detoxify(folder)


def test_a_weight_without_a_place_is_an_error(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.update(extra=torch.zeros(1)))
    with pytest.raises(ScorerUnavailableError, match="extra among them"):
        load_detoxify(folder)


def test_position_ids_that_do_not_count_are_an_error(folder: Path) -> None:
    ids = torch.arange(32).flip(0)[None]
    _change_weights(folder, lambda w: w.update({"bert.embeddings.position_ids": ids}))
    with pytest.raises(ScorerUnavailableError, match="does not count upwards"):
        load_detoxify(folder)


def test_a_configuration_with_other_labels_is_an_error(tmp_path: Path) -> None:
    model = write_ckpt(tmp_path / "checkpoint.ckpt")
    write_base(tmp_path, model, labels=7)
    with pytest.raises(ScorerUnavailableError, match="with 2 labels"):
        load_detoxify(tmp_path)


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/excise-was-here",))


def test_code_in_a_checkpoint_does_not_run(folder: Path) -> None:
    marker = Path("/tmp/excise-was-here")
    marker.unlink(missing_ok=True)
    torch.save({"config": {}, "state_dict": Malice()}, folder / "checkpoint.ckpt")
    with pytest.raises(ScorerUnavailableError, match="no checkpoint of Detoxify's"):
        load_detoxify(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [("model_name", "GPT2LMHeadModel"), ("tokenizer_name", "os"), ("num_classes", 0)],
)
def test_only_detoxifys_architectures_are_built(folder: Path, part: str, value: object) -> None:
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["arch"]["args"][part] = value
    torch.save(content, path)
    with pytest.raises(ScorerUnavailableError, match="no checkpoint of Detoxify's"):
        load_detoxify(folder)


def test_a_checkpoint_without_the_class(tmp_path: Path) -> None:
    write_base(tmp_path, write_ckpt(tmp_path / "checkpoint.ckpt", classes=("obscene",)))
    with pytest.raises(ScorerUnavailableError, match="no class toxicity, only obscene"):
        load_detoxify(tmp_path)


def test_folders_that_hold_no_one_checkpoint(folder: Path) -> None:
    write_ckpt(folder / "another.ckpt")
    with pytest.raises(ScorerUnavailableError, match=r"2 \.ckpt files"):
        load_detoxify(folder)
    with pytest.raises(ScorerUnavailableError, match="is no folder"):
        load_detoxify(folder / "absent")


def _change_weights(folder: Path, change) -> None:
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    change(content["state_dict"])
    torch.save(content, path)


@needs_minilm
def test_the_real_code_and_a_real_checkpoint() -> None:
    """Short texts score as the library's own `predict` scores them."""
    from detoxify import Detoxify

    scorer = load_detoxify(MINILM)
    content = torch.load(MINILM / "toxicity_minilm_fp16.ckpt", weights_only=True)
    content["config"]["arch"]["args"]["model_type"] = str(MINILM)
    trusted = io.BytesIO()
    torch.save(content, trusted)
    trusted.seek(0)
    library = Detoxify(checkpoint=trusted, huggingface_config_path=str(MINILM))
    texts = ["you are a stupid idiot", "what a lovely day", "I will kill you", ""]
    scores = scorer.score(answers(*texts))
    assert scores == pytest.approx(library.predict(texts)["toxicity"], abs=2e-6)
    assert scores[0] > 0.9 > 0.1 > scores[1]
    assert scorer.name == "detoxify/detoxify_minilm"


@needs_minilm
def test_toxicity_far_down_a_long_text_is_found() -> None:
    scorer = load_detoxify(MINILM)
    filler = "The council met on Tuesday and talked about the new road. " * 60
    clean, toxic = scorer.score(
        answers(filler + filler, filler + "You are a fucking stupid idiot, shut up. " * 40)
    )
    assert clean < 0.1
    assert toxic > 0.9  # `predict` would have cut it before the first insult


@needs_minilm
def test_all_weights_of_the_real_checkpoint_are_read() -> None:
    assert len(read_ckpt(MINILM / "toxicity_minilm_fp16.ckpt").tensors) == 105
