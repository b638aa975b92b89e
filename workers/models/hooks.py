"""Hooks on modules: the only place where they are registered and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Hook:
    """A function, with torch's signature, that a module calls in its forward pass."""

    module: nn.Module
    function: Callable[..., Any]


class InputHook(Hook):
    """Called before the forward pass; a return value other than None replaces the arguments."""


class KeywordInputHook(Hook):
    """Called before the forward pass with the keyword arguments as well; must return None."""


class OutputHook(Hook):
    """Called after the forward pass; a return value other than None replaces the output."""


@contextmanager
def hooked(hooks: Iterable[Hook]) -> Iterator[None]:
    """Within the context, the hooks are registered, in the given order.

    All are removed on exit, even if the body raises or registering one of them fails.
    """
    handles: list[RemovableHandle] = []
    try:
        for hook in hooks:
            handles.append(_register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(hook: Hook) -> RemovableHandle:
    if isinstance(hook, OutputHook):
        return hook.module.register_forward_hook(hook.function)
    with_kwargs = isinstance(hook, KeywordInputHook)
    return hook.module.register_forward_pre_hook(hook.function, with_kwargs=with_kwargs)
