"""Offloading: weights on their device while code outside `forward` needs them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def onloaded(module: nn.Module) -> Iterator[None]:
    """Bring the offloaded weights of `module` to its device within a context.

    accelerate and diffusers do so around `forward` only.
    """
    registry = getattr(module, "_diffusers_hook", None)
    candidates = (getattr(module, "_hf_hook", None), registry and registry.get_hook("group_offloading"))
    hooks = [hook for hook in candidates if hook is not None]
    for hook in hooks:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in reversed(hooks):
            hook.post_forward(module, None)
