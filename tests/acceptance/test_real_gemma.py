"""The real Gemma-3-270M: conversion, beginning-of-sequence token, and correction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader

from tests.acceptance.harness import Harness, wait_for
from tests.acceptance.real_checkpoints import (
    fetch_real,
    have_wheels,
    load_real,
    needing,
    read_examples,
)
from tests.reference.slow_sentencepiece import SlowSentencePiece
from workers.domain import TokenSequence
from workers.fetching import checkpoints
from workers.fetching.checkpoints import EMBEDDED_MODELS
from workers.measuring.text_damage import compute_perplexity
from workers.models.encoding import encode_part, encode_text, find_beginning
from workers.models.generation import generate_responses
from workers.models.loaded import LoadedModel
from workers.models.prompts import encode_prompt
from workers.pruning.patch import apply_patch, parse_patch, revert_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256

NAME = "gemma-3-270m"

pytestmark = needing(NAME)

TEXT = (
    "The river rises in the hills to the north of the town and flows south for about forty miles "
    "before it reaches the sea. In the nineteenth century its water drove a dozen mills, most of "
    "which made paper or ground corn. The last of them closed in 1954."
)
SENTENCES = (
    TEXT,
    "def square(x: int) -> int:\n    return x ** 2\n\n\nprint(square(12345))",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Спасибо, всё хорошо — 谢谢，我很好 🙂🦦",
    "  two  spaces, a\ttab and \u0378 that no vocabulary has",
)


@pytest.fixture(scope="module")
def checkpoint() -> LoadedModel:
    return load_real(NAME)


def compute_text_perplexity(checkpoint: LoadedModel, ids: tuple[int, ...]) -> float:
    samples = [TokenSequence(ids)]
    return compute_perplexity(checkpoint, samples).value


def test_it_knows_its_capitals(checkpoint: LoadedModel) -> None:
    question = "Q: What is the capital of France?\nA:"
    prompts = [encode_text(checkpoint.tokenizer, question)]
    (response,) = generate_responses(checkpoint, prompts, 8)
    assert "Paris" in checkpoint.tokenizer.decode(response.response_ids)


def test_its_perplexity_on_plain_prose_is_low(checkpoint: LoadedModel) -> None:
    """GGUF stores Gemma's norms plus one, which the conversion must subtract again."""
    assert compute_text_perplexity(checkpoint, encode_text(checkpoint.tokenizer, TEXT)) < 40


def test_without_the_beginning_token_its_perplexity_is_high(checkpoint: LoadedModel) -> None:
    tokenizer = checkpoint.tokenizer
    assert find_beginning(tokenizer) == (tokenizer.bos_token_id,)
    found, lost = (
        compute_text_perplexity(checkpoint, encode(tokenizer, TEXT))
        for encode in (encode_text, encode_part)
    )
    assert lost > 10 * found


def test_turn_markers_are_tokens_but_the_base_model_has_no_template(
    checkpoint: LoadedModel,
) -> None:
    tokenizer = checkpoint.tokenizer
    assert tokenizer.chat_template is None
    assert encode_prompt(tokenizer, TEXT) == encode_text(tokenizer, TEXT)
    turn = "<start_of_turn>user\nHello<end_of_turn>\n"
    assert tokenizer.convert_ids_to_tokens(encode_part(tokenizer, turn)) == [
        *("<start_of_turn>", "user", "\n", "Hello", "<end_of_turn>", "\n")
    ]


@pytest.mark.skipif(not have_wheels(NAME), reason=f"needs {EMBEDDED_MODELS[NAME].packages}")
def test_the_tokenizer_matches_the_gguf_file(checkpoint: LoadedModel, tmp_path: Path) -> None:
    with checkpoints.open_embedded_file(NAME, tmp_path) as whole:
        fields = GGUFReader(whole).fields
        pieces, scores, types = (
            fields[f"tokenizer.ggml.{name}"].contents()
            for name in ("tokens", "scores", "token_type")
        )
    slow = SlowSentencePiece(pieces, scores, types)
    for text in SENTENCES:
        ids = encode_part(checkpoint.tokenizer, text)
        assert list(ids) == slow.encode(text), text
        assert checkpoint.tokenizer.decode(ids) == text


def test_a_correction_of_repetition_helps_or_is_rejected(stack: Harness, tmp_path: Path) -> None:
    """Whatever the verdict, the report says what was measured, and the patch is exact both ways."""
    folder = fetch_real(NAME)
    model = stack.stack.home / "models" / NAME
    if not model.is_dir():
        shutil.copytree(folder, model)
    # Abilities are measured on the real SmolLM2 (test_abilities.py, the demo); here they would take
    # minutes.
    spec = stack.build_spec(
        model=NAME,
        search={"amounts": [16, 64], "rounds": 1},
        protect=None,
        gates={"abilities": None},
    )
    prompts = stack.client.upload_prompts(
        "\n".join(read_examples("repetition_prompts.txt", 96)).encode(), "repetition"
    )
    reference = stack.client.upload_prompts(
        "\n".join(read_examples("reference.txt", 24)).encode(), "reference"
    )
    spec["behaviours"][0]["prompts"], spec["reference"] = prompts.id, reference.id
    corpus = stack.client.upload_prompts(
        "\n".join(read_examples("perplexity.txt", 130)).encode(), "perplexity"
    )
    spec["perplexity"] = {"prompts": corpus.id, "context": 128, "sequences": 4}
    spec["attribution"] = {"granularity": "neuron", "reference_tokens": 1024}
    spec["budget"] = {"perplexity_increase": 0.5, "kl_mean": 0.5}
    job = stack.client.create_job(spec)
    wait_for(
        lambda: stack.job(job.id).status not in {"queued", "running"},
        f"the end of {job.id}",
        stack.describe,
        seconds=540,
    )
    job = stack.job(job.id)
    assert job.error is None
    files = stack.download(job, tmp_path / "files")
    report = json.loads(files["report.json"])
    assert report["damage"] is not None, report["reason"]
    assert report["damage"]["perplexity"]["before"] < 100
    (evaluator,) = report["behaviours"][0]["evaluators"]
    (held_out,) = [
        measure["held_out"] for measure in evaluator["measures"] if measure["name"] == "mean_score"
    ]
    missed = [gate["name"] for gate in report["gates"] if not gate["passed"]]
    if job.verdict == "passed":
        assert held_out["after"] - held_out["before"] >= 0.1
        assert held_out["ci_low"] > 0
        assert not missed
    else:
        assert (job.status, job.verdict) == ("rejected", "rejected"), job
        assert missed
    patch = parse_patch(files["patch.safetensors"])
    assert 0 < len(patch.selection) <= 64
    apply_patch(patch, folder, tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "base")
    assert compute_checkpoint_sha256(tmp_path / "base") == compute_checkpoint_sha256(folder)
    assert compute_checkpoint_sha256(tmp_path / "corrected") == patch.corrected_sha256
