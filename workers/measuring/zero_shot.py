"""Zero-shot accuracy: whether the model finds the right choice likelier than every other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from excise.names import ZeroShotTask
from workers.domain import TokenSequence
from workers.measuring.zero_shot_tasks import Choice, Question
from workers.models.batches import TokenBatch, build_batches
from workers.models.loaded import LoadedModel
from workers.models.positions import split_positions
from workers.progress import Advance

Encode = Callable[[str], Sequence[int]]
"""Text to token ids, with the beginning-of-text token if the model expects one."""


@dataclass(frozen=True)
class TaskAccuracy:
    """Share of a task's questions answered right, with its standard error."""

    task: ZeroShotTask
    questions: int
    accuracy: float
    """With choices ranked by their summed log-likelihood."""
    accuracy_error: float
    normalised_accuracy: float
    """With choices ranked by log-likelihood per byte, so that short ones have no advantage."""
    normalised_accuracy_error: float


@dataclass(frozen=True)
class QuestionOutcome:
    """Whether one question was answered right."""

    right: bool
    """With choices ranked by their summed log-likelihood."""
    normalised_right: bool
    """With choices ranked by log-likelihood per byte."""


@dataclass(frozen=True)
class _Request:
    """Tokens to feed to the model, and the target tokens that the last of them predict."""

    input_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


def measure_accuracy(
    loaded: LoadedModel,
    encode: Encode,
    task: ZeroShotTask,
    questions: Sequence[Question],
    *,
    batch_tokens: int = 4096,
    on_batch: Advance | None = None,
) -> TaskAccuracy:
    """Return plain and length-normalised accuracy, with choices ranked by log-likelihood.

    As lm-evaluation-harness's `acc` and `acc_bytes` do: lengths in UTF-8 bytes, without the
    separating space. Its `acc_norm` divides by the length in characters instead, which is the
    same for ASCII choices alone. Where another choice is as likely as the right one, the answer is
    wrong (there, the first of them is taken): a model that computes nothing finds all alike.
    `on_batch` is called with the number of choices that each batch tells of. Raises `ValueError` on
    fewer than two questions, as they have no standard error, and as `compute_log_likelihoods` does.
    """
    if len(questions) < 2:
        raise ValueError(f"{task} has {len(questions)} questions; give two or more")
    outcomes = answer_questions(
        loaded, encode, questions, batch_tokens=batch_tokens, on_batch=on_batch
    )
    count = len(questions)
    right = sum(outcome.right for outcome in outcomes)
    normalised_right = sum(outcome.normalised_right for outcome in outcomes)
    return TaskAccuracy(
        task=task,
        questions=count,
        accuracy=right / count,
        accuracy_error=compute_share_error(right, count),
        normalised_accuracy=normalised_right / count,
        normalised_accuracy_error=compute_share_error(normalised_right, count),
    )


def answer_questions(
    loaded: LoadedModel,
    encode: Encode,
    questions: Sequence[Question],
    *,
    batch_tokens: int = 4096,
    on_batch: Advance | None = None,
) -> list[QuestionOutcome]:
    """Return for each question whether the right choice is likelier than every other.

    Raises what `compute_log_likelihoods` does.
    """
    choices = [choice for question in questions for choice in question.choices]
    scores = iter(
        compute_log_likelihoods(
            loaded, encode, choices, batch_tokens=batch_tokens, on_batch=on_batch
        )
    )
    outcomes = []
    for question in questions:
        plain = [next(scores) for _ in question.choices]
        lengths = [len(choice.continuation[1:].encode()) for choice in question.choices]
        normalised = [score / length for score, length in zip(plain, lengths, strict=True)]
        outcomes.append(
            QuestionOutcome(
                right=_is_largest(plain, question.answer),
                normalised_right=_is_largest(normalised, question.answer),
            )
        )
    return outcomes


def compute_share_error(right: int, count: int) -> float:
    """Return the standard error √(p(1 − p) / (n − 1)) of the share p = right / count, n ≥ 2."""
    share = right / count
    return math.sqrt(share * (1 - share) / (count - 1))


@torch.inference_mode()
def compute_log_likelihoods(
    loaded: LoadedModel,
    encode: Encode,
    choices: Sequence[Choice],
    *,
    batch_tokens: int = 4096,
    on_batch: Advance | None = None,
) -> list[float]:
    """Return log p(continuation | context) of each choice, summed over its tokens, nats.

    Choices that differ only in their last token are fed to the model once. Sequences longer than
    the model's context are cut on the left. Raises `ValueError` if a context or continuation has
    no tokens or if a continuation alone exceeds the model's context, and `ArithmeticError` if a
    likelihood is not finite.
    """
    limit = loaded.context_length
    requests = [_build_request(encode, choice, limit) for choice in choices]
    users: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        users.setdefault(request.input_ids, []).append(index)
    inputs = [TokenSequence(input_ids) for input_ids in users]
    wanted = list(users.values())
    totals = torch.zeros(len(requests), dtype=torch.float64)
    for batch in build_batches(inputs, batch_tokens, loaded.pad_id):
        rows = [[(i, requests[i]) for i in wanted[sample]] for sample in batch.sample_indices]
        _add_log_likelihoods(loaded, batch, rows, totals)
        if on_batch is not None:
            on_batch(sum(map(len, rows)))
    if not bool(torch.isfinite(totals).all()):
        raise ArithmeticError("a log-likelihood is not finite; use float32, or another model")
    return totals.tolist()


def _add_log_likelihoods(
    loaded: LoadedModel,
    batch: TokenBatch,
    rows: Sequence[Sequence[tuple[int, _Request]]],
    totals: torch.Tensor,
) -> None:
    """Add the log-probabilities of each request's targets to its entry of `totals`.

    `rows[k]` are the requests, with their positions in `totals`, that row k of the batch answers.
    """
    device = loaded.device
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, requests in enumerate(rows):
        for owner, request in requests:
            end = len(request.input_ids)
            count = len(request.target_ids)
            places.extend((row, position) for position in range(end - count, end))
            targets.extend(request.target_ids)
            owners.extend([owner] * count)
    hidden = loaded.run(batch.token_ids.to(device))
    row_index, position_index = torch.tensor(places, device=device).T
    states = hidden[row_index, position_index]
    target_ids = torch.tensor(targets, device=device)
    head = loaded.head
    for span in split_positions(len(states), head):
        logits = (states[span] @ head.T).float()
        found = -functional.cross_entropy(logits, target_ids[span], reduction="none")
        totals.index_add_(0, torch.tensor(owners[span]), found.double().cpu())


def _build_request(encode: Encode, choice: Choice, limit: int) -> _Request:
    """Return the request for a choice; context and continuation are tokenised together.

    Trailing spaces of the context count as part of the continuation.
    """
    context = choice.context.rstrip()
    whole = tuple(encode(choice.context + choice.continuation))
    boundary = len(encode(context))
    if boundary == 0 or boundary >= len(whole):
        raise ValueError(
            f"nothing to predict, or nothing to predict it from: context {context[:40]!r}, "
            f"continuation {choice.continuation[:40]!r}; give each a text the tokeniser knows"
        )
    targets = whole[boundary:]
    if len(targets) > limit:
        raise ValueError(
            f"a choice of {len(targets)} tokens exceeds the model's context of {limit}: "
            f"{choice.continuation[:40]!r}…; shorten it"
        )
    return _Request(whole[:-1][-limit:], targets)


def _is_largest(values: Sequence[float], position: int) -> bool:
    """Return whether the value at `position` is larger than every other."""
    return all(values[position] > value for other, value in enumerate(values) if other != position)
