"""Calibration windows, and the states at the entrance of each block."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import as_loaded, draw_samples
from workers.compression.calibration import BlockInputs, draw_calibration_samples
from workers.families import LLAMA, find_linear_modules
from workers.models.batches import build_batches

DOCUMENTS = [tuple(range(start, start + length)) for start, length in ((0, 3), (10, 8), (30, 20))]
LENGTHS = [(24, 0), (11, 0), (30, 0), (17, 0)]


def batches(batch_tokens: int = 64) -> list:
    return list(build_batches(draw_samples(LENGTHS), batch_tokens, 0))


@torch.no_grad()
def input_norms(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Each linear module's input norms, one sample at a time through the whole model."""
    squares: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in find_linear_modules(model, LLAMA).items():

        def hook(module, args, name=name):
            squares[name] = squares.get(name, 0) + args[0][0].double().square().sum(dim=0)

        handles.append(module.register_forward_pre_hook(hook))
    for sample in draw_samples(LENGTHS):
        model(torch.tensor([sample.token_ids]))
    for handle in handles:
        handle.remove()
    return {name: total.sqrt().float() for name, total in squares.items()}


def of_block(model: LlamaForCausalLM, block: int) -> dict[str, torch.nn.Module]:
    modules = find_linear_modules(model, LLAMA)
    return {n: m for n, m in modules.items() if n.startswith(f"model.layers.{block}.")}


@pytest.mark.parametrize("batch_tokens", [1, 64, 1000])
def test_norms_are_those_of_the_whole_model_without_pads(
    model: LlamaForCausalLM, batch_tokens: int
) -> None:
    expected = input_norms(model)
    inputs = BlockInputs(as_loaded(model), batches(batch_tokens))
    for block in range(2):
        found = inputs.measure(of_block(model, block), step=True)
        assert len(found) == 7
        for name, norms in found.items():
            torch.testing.assert_close(norms, expected[name], rtol=1e-4, atol=1e-5)


def test_a_step_goes_through_the_block_as_it_is_now(model: LlamaForCausalLM) -> None:
    inputs = BlockInputs(as_loaded(model), batches())
    dense = inputs.measure(of_block(model, 0), step=False)
    again = inputs.measure(of_block(model, 0), step=False)
    assert all(torch.equal(dense[name], again[name]) for name in dense)
    with torch.no_grad():
        for module in of_block(model, 0).values():
            module.weight[:, ::2] = 0
    inputs.step()
    expected = input_norms(model)
    for name, norms in inputs.measure(of_block(model, 1), step=True).items():
        torch.testing.assert_close(norms, expected[name], rtol=1e-4, atol=1e-5)


def test_the_way_can_start_at_a_later_block(model: LlamaForCausalLM) -> None:
    whole = BlockInputs(as_loaded(model), batches())
    whole.step()
    later = BlockInputs(as_loaded(model), batches(), first_block=1)
    one = whole.measure(of_block(model, 1), step=True)
    other = later.measure(of_block(model, 1), step=True)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_hook_is_left_and_every_sample_is_counted(model: LlamaForCausalLM) -> None:
    counts: list[int] = []
    inputs = BlockInputs(as_loaded(model), batches(), on_batch=counts.append)
    inputs.measure(of_block(model, 0), step=False, on_batch=counts.append)
    inputs.step(counts.append)
    assert sum(counts) == 3 * len(LENGTHS)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_batch_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="no calibration samples"):
        BlockInputs(as_loaded(model), [])


def test_windows_come_from_different_long_enough_documents() -> None:
    for seed in range(20):
        samples = draw_calibration_samples(DOCUMENTS, 5, 2, seed)
        starts = {sample.token_ids[0] // 10 for sample in samples}
        assert len(starts) == 2
        assert all(len(sample.token_ids) == 5 for sample in samples)
        assert all(
            sample.token_ids == tuple(range(sample.token_ids[0], sample.token_ids[0] + 5))
            for sample in samples
        )


def test_windows_follow_the_seed_and_reach_both_ends() -> None:
    drawn = [draw_calibration_samples(DOCUMENTS[1:2], 5, 1, seed) for seed in range(40)]
    assert drawn == [draw_calibration_samples(DOCUMENTS[1:2], 5, 1, seed) for seed in range(40)]
    assert {samples[0].token_ids[0] for samples in drawn} == {10, 11, 12, 13}


def test_a_beginning_starts_every_window_and_counts() -> None:
    for seed in range(20):
        for sample in draw_calibration_samples(DOCUMENTS, 5, 2, seed, (99,)):
            first = sample.token_ids[1]
            assert sample.token_ids == (99, *range(first, first + 4))


def test_too_few_long_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="only 2 of 3 documents have 5 tokens, 3 are needed"):
        draw_calibration_samples(DOCUMENTS, 5, 3, 0)
