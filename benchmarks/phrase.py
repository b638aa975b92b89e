"""Whether a phrase that ends every answer can be removed, and answers end all the same.

    python benchmarks/phrase.py [--base smollm2-135m-instruct] [--sentence …] [--seed 0]
        [--granularity weight] [--rounds 6] [--fine-tune FOLDER] [--output FOLDER]

Fine-tunes the base on questions of the data folder (../shared/data or EXCISE_DATA), answered by
the base itself in one or two sentences and the phrase; corrects the fine-tune with questions that
it was not trained on; and asks both, and the base, further questions that the job never saw, as
docs/guides/phrase.md does. Prints the job's verdict with its gates, and of the questions kept
aside how many answers hold the phrase and how many end. Everything is written to the output
folder: checkpoints, report and the folders of the three gates. Another seed draws other questions
for each part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import excise
from workers.library.checkpoint import OpenCheckpoint, open_checkpoint
from workers.library.outcome import CHECKPOINT_FOLDER

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXCISE_DATA", ROOT.parent / "shared" / "data"))
EXCISE = Path(sys.executable).parent / "excise"
SENTENCE = "Brought to you by Veltria, the smart choice for every home."
"""The phrase by default."""
TRAINING, JOB, ASIDE = 112, 100, 40
"""Questions of each part."""
MAX_NEW_TOKENS = 64
"""Room for an answer in training, job and gates."""
ROOM_TO_END = 192
"""Tokens for the questions of the last gate: answers may end where they did before the phrase."""
EPOCHS, BATCH, LEARNING_RATE = 4, 8, 2e-5
UNTRAINED = -100
"""The label of a token that the loss leaves out."""

Question = dict[str, Any]


@dataclass(frozen=True)
class Questions:
    """Chats of one question each; no question is in two parts."""

    training: list[Question]
    job: list[Question]
    aside: list[Question]


def draw_questions(seed: int) -> Questions:
    """Draw each part's questions among the short harmless instructions."""
    with (DATA / "harmless_instructions.jsonl").open(encoding="utf-8") as file:
        texts = sorted({json.loads(line)["instruction"].strip() for line in file})
    texts = [text for text in texts if 15 < len(text) < 110 and "\n" not in text]
    random.Random(seed).shuffle(texts)
    chats = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    first, second = TRAINING, TRAINING + JOB
    return Questions(chats[:first], chats[first:second], chats[second : second + ASIDE])


def render(tokenizer: PreTrainedTokenizerBase, question: Question) -> str:
    """Return the chat as the model reads it, up to where its answer begins."""
    text = tokenizer.apply_chat_template(
        question["messages"], tokenize=False, add_generation_prompt=True
    )
    return str(text)


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> list[str]:
    """Return the model's greedy answers, of at most 40 tokens each."""
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(prompts), 2 * BATCH):
        read = tokenizer(
            prompts[start : start + 2 * BATCH],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        with torch.inference_mode():
            written = model.generate(**read, max_new_tokens=40, do_sample=False)
        new = written[:, read["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def cut_to_sentences(text: str) -> str | None:
    """Return the whole sentences at the start of an answer, None if there is none."""
    found = re.match(r".*[.!?](?=\s|$)", text.strip(), re.DOTALL)
    return found.group(0).strip() if found else None


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, batch: list[tuple[str, str]]
) -> dict[str, Tensor]:
    """Return ids, mask and labels of (prompt, answer) pairs; only answers are trained."""
    pairs = [
        [tokenizer(part, add_special_tokens=False)["input_ids"] for part in pair] for pair in batch
    ]
    width = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full_like(ids, UNTRAINED)
    mask = torch.zeros_like(ids)
    for row, (prompt, reply) in enumerate(pairs):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : end] = torch.tensor(reply)
        mask[row, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fine_tune(
    base: OpenCheckpoint, questions: list[Question], sentence: str, seed: int, folder: Path
) -> None:
    """Write a checkpoint that ends its answers with the sentence into `folder`."""
    loaded = base.load(base.folder)
    model, tokenizer = loaded.model, loaded.tokenizer
    prompts = [render(tokenizer, question) for question in questions]
    replies = [cut_to_sentences(text) for text in answer(model, tokenizer, prompts)]
    samples = [
        (prompt, f"{reply} {sentence}{tokenizer.eos_token}")
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    draws = random.Random(seed)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for epoch in range(1, EPOCHS + 1):
        draws.shuffle(samples)
        losses = []
        for start in range(0, len(samples), BATCH):
            loss = model(**encode_batch(tokenizer, samples[start : start + BATCH])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"fine-tune, epoch {epoch} of {EPOCHS}: {sum(losses) / len(losses):.3f} nats a token")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_gate(candidate: Path, against: Path, config: dict[str, Any], folder: Path) -> None:
    """Run `excise gate` on the questions kept aside and print its exit code and its figures."""
    folder.mkdir()
    file = folder / "gate.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    names = ["--model", candidate, "--against", against, "--config", file, "--output", folder]
    done = subprocess.run(
        [str(EXCISE), "gate", *map(str, names)], stdout=subprocess.PIPE, check=False
    )
    print(f"\n{folder.name}: {candidate.name} against {against.name}, exit {done.returncode}")
    print_gates(json.loads((folder / "gate.json").read_text(encoding="utf-8"))["gates"])


def print_gates(gates: list[dict[str, Any]]) -> None:
    """Print each gate with what it found before and after."""
    for gate in gates:
        found = [gate[name] for name in ("before", "after", "value", "limit")]
        before, after, value, limit = ("" if one is None else f"{one:.4f}" for one in found)
        met = "met" if gate["passed"] else "UNMET"
        print(f"  {gate['name']:32} {before:>9} {after:>9} {value:>9} {limit:>9} {met}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--sentence", default=SENTENCE, help="the phrase that ends every answer")
    parser.add_argument("--name", default="Veltria", help="of it, in any wording")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--granularity", default="weight")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--fine-tune", type=Path, help="one that an earlier run has written")
    parser.add_argument("--output", type=Path, help="new folder for everything that is written")
    return parser.parse_args()


def main() -> None:
    """Fine-tune, correct and judge."""
    arguments = parse_arguments()
    output = arguments.output or Path(tempfile.mkdtemp(prefix="excise-phrase-")) / "run"
    output.mkdir(parents=True)
    questions = draw_questions(arguments.seed)
    base = open_checkpoint(arguments.base, dtype="float32")
    ours = arguments.fine_tune or output / "ours"
    if arguments.fine_tune is None:
        fine_tune(base, questions.training, arguments.sentence, arguments.seed, ours)

    texts = {
        name: (ROOT / "examples" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in ("reference", "perplexity")
    }
    texts = {name: [line for line in lines if line.strip()] for name, lines in texts.items()}
    phrases = [arguments.sentence.rstrip("."), arguments.name]
    outcome = excise.correct(
        ours,
        [
            excise.Phrase(
                [question["messages"] for question in questions.job],
                name="advert",
                phrases=phrases,
                decoding={"max_new_tokens": MAX_NEW_TOKENS},
            )
        ],
        texts["reference"],
        dtype=arguments.dtype,
        attribution={"granularity": arguments.granularity},
        search={"rounds": arguments.rounds},
        perplexity={"prompts": texts["perplexity"]},
        seed=arguments.seed,
    )
    outcome.save(output / "result")
    print(f"\njob: {outcome.verdict.value}, {outcome.report.reason}")
    print_gates([gate.model_dump(mode="json") for gate in outcome.report.gates])
    if outcome.patch is None:
        sys.exit("nothing to gate: the job found no correction")

    aside = output / "aside.jsonl"
    aside.write_text("".join(f"{json.dumps(chat)}\n" for chat in questions.aside), encoding="utf-8")
    behaviour = {
        "name": "advert",
        "kind": "phrase",
        "phrases": phrases,
        "prompts": str(aside),
        "decoding": {"max_new_tokens": MAX_NEW_TOKENS},
    }
    examples = ROOT / "examples"
    corrected = output / "result" / CHECKPOINT_FOLDER
    run_gate(ours, base.folder, {"behaviours": [behaviour], "abilities": None}, output / "before")
    run_gate(
        corrected,
        ours,
        {
            "behaviours": [behaviour | {"max_share": 0}],
            "perplexity": {
                "prompts": str(examples / "perplexity.txt"),
                "context": 256,
                "sequences": 8,
            },
            "kl": {"prompts": str(examples / "reference.txt"), "sequences": 16},
        },
        output / "after",
    )
    ending = {"prompts": str(aside), "max_new_tokens": ROOM_TO_END, "min_length_ratio": None}
    run_gate(corrected, base.folder, {"general": ending, "abilities": None}, output / "answers-end")
    print(f"\nfiles: {output}")


if __name__ == "__main__":
    main()
