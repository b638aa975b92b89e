"""What a caller has set for the whole of torch, put aside while the engine computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within the context, torch computes as in a fresh process; the caller's modes return after it.

    Notebooks turn gradients off for good, or run in `inference_mode`, under autocast, with another
    default dtype or device. The engine needs gradients, and figures must depend on none of these.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(mode=False))
            modes.enter_context(torch.enable_grad())
            for kind in ("cpu", "cuda"):
                modes.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":  # such a mode slows every call down
                modes.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
