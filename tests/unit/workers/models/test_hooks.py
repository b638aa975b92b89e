"""Hooks are there within the context, in order, and gone after it, whatever happened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from workers.models.hooks import Hook, InputHook, KeywordInputHook, OutputHook, hooked


def count_hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_inputs_and_outputs_are_replaced_in_order() -> None:
    module = nn.Identity()
    hooks = [
        OutputHook(module, lambda _, args, output: output * 10),
        InputHook(module, lambda _, args: (args[0] + 1,)),
        InputHook(module, lambda _, args: (args[0] * 3,)),
    ]
    with hooked(hooks):
        assert float(module(torch.tensor(1.0))) == 60.0
    assert float(module(torch.tensor(1.0))) == 1.0
    assert count_hooks(module) == 0


def test_a_keyword_hook_sees_keywords() -> None:
    class Adder(nn.Module):
        def forward(self, value: int, *, more: int) -> int:
            return value + more

    module, seen = Adder(), []
    hook = KeywordInputHook(module, lambda _, args, kwargs: seen.append((args, kwargs)))
    with hooked([hook]):
        assert module(1, more=2) == 3
    assert seen == [((1,), {"more": 2})]


def test_nothing_stays_when_the_body_or_a_later_hook_fails() -> None:
    module = nn.Identity()

    def list_hooks() -> Iterator[Hook]:
        yield InputHook(module, lambda *_: None)
        raise AttributeError("absent")

    with pytest.raises(AttributeError, match="absent"), hooked(list_hooks()):
        pass
    with pytest.raises(KeyboardInterrupt), hooked([OutputHook(module, lambda *_: None)]):
        raise KeyboardInterrupt
    assert count_hooks(module) == 0
