"""Gradient checkpointing with every dropout off: a layer's activations are computed again when they are needed."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hardprompts_transformers.releases import CheckpointingLayer


def checkpointed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of transformers that can be computed again; none, where its authors have marked none."""
    return [module for module in model.modules() if isinstance(module, CheckpointingLayer)]


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Passes of the model that keep each layer's input alone, and compute the rest again for the gradient.

    transformers' own switch acts in training mode only, which would turn dropout on. Here the layers stay in
    evaluation mode, and are as they were when the block ends.
    """
    layers = checkpointed_layers(model)
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = functools.partial(_again, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _again(forward: Any, *args: Any, **kwargs: Any) -> Any:
    # Without dropout nothing is drawn, so the state of the generators need not be kept.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def needed(*inputs: torch.Tensor) -> bool:
    """True if a gradient with respect to any of these will be asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
