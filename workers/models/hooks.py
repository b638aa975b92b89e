"""The one place where hooks are registered on modules, and where they are taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Hook:
    """A function that a module calls in its forward pass, with torch's signature for it."""

    module: nn.Module
    function: Callable[..., Any]


class InputHook(Hook):
    """Called before the forward pass; what it returns, if anything, replaces the arguments."""


class KeywordInputHook(Hook):
    """The same, called with keyword arguments, too; must return nothing."""


class OutputHook(Hook):
    """Called after the forward pass; what it returns, if anything, replaces the output."""


@contextmanager
def hooked(hooks: Iterable[Hook]) -> Iterator[None]:
    """Within the context the hooks are registered, in the given order.

    They are gone on exit, whatever happened: also those registered before one failed.
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
