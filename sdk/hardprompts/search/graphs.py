"""Gradients of an objective as one graph, which torch compiles once for each shape of a batch."""

import contextlib
import dataclasses
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.devices import is_out_of_memory
from hardprompts.errors import brief
from hardprompts.objectives import Evaluation, TraceableObjective
from hardprompts.towers.frozen import traced_products

#: Gradients of one shape that are taken as ever before its graph is compiled, which takes as long as thousands of them.
MET_OFTEN = 16

#: Seconds that a call must have left for a graph to be compiled.
COMPILE_SECONDS = 300.0

#: How far losses, and gradients as a share of their norm, may lie from those of the model's own passes.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}
HALF_TOLERANCE = 5e-2


class Gradient(NamedTuple):
    """The losses of a batch, the gradient of their sum with respect to the embeddings, and the scores where known."""

    loss: Float[Tensor, " batch"]
    grad: Float[Tensor, "batch tokens dim"]
    score: Float[Tensor, " batch"] | None


Evaluate = Callable[..., Evaluation]


def gradient_of(evaluate: Evaluate, embeddings: Float[Tensor, "batch tokens dim"], *arguments: Tensor) -> Gradient:
    """What `evaluate(embeddings, *arguments)` gives, and the gradient of its loss."""
    with torch.enable_grad():
        leaf = embeddings.detach().requires_grad_()
        loss, score = evaluate(leaf, *arguments)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return Gradient(loss.detach(), grad, None if score is None else score.detach())


@dataclasses.dataclass
class _Graphs:
    """The graphs of one model by template, shape and dtype; None: it was tried, and this one runs as it is written."""

    compiled: dict[Hashable, Callable[..., Any] | None] = dataclasses.field(default_factory=dict)
    met: dict[Hashable, int] = dataclasses.field(default_factory=dict)


# They live as long as the model does, so that the next picture finds them; a graph holds its weights, not the model.
_OF_MODELS: "weakref.WeakKeyDictionary[Any, _Graphs]" = weakref.WeakKeyDictionary()


def compiled_gradient(
    objective: TraceableObjective,
    embeddings: Float[Tensor, "batch tokens dim"],
    groups: Tensor,
    seconds_left: float | None,
) -> Gradient:
    """`gradient_of` an objective, by a compiled graph from the time on that one is worth its while.

    A shape that was met `MET_OFTEN` times is traced, compiled by `torch.compile` as one graph without breaks, and
    compared with the model's own passes; until then, and where any of this fails, which is warned of in one line, the
    gradient is taken as ever. Nothing is compiled with less than `COMPILE_SECONDS` left.
    """
    owner, key = objective.function
    arguments = objective.arguments(groups)
    graphs = _OF_MODELS.setdefault(owner, _Graphs())
    shape = (key, embeddings.shape, embeddings.dtype, embeddings.device, tuple(each.shape for each in arguments))
    if shape not in graphs.compiled:
        graphs.met[shape] = graphs.met.get(shape, 0) + 1
        if graphs.met[shape] > MET_OFTEN and (seconds_left is None or seconds_left >= COMPILE_SECONDS):
            graphs.compiled[shape] = _compiled(objective.evaluate, embeddings, arguments)
    graph = graphs.compiled.get(shape)
    if graph is None:
        return gradient_of(objective.evaluate, embeddings, *arguments)
    with torch.no_grad():
        return Gradient(*graph(embeddings, *arguments))


def _compiled(
    evaluate: Evaluate, embeddings: Tensor, arguments: tuple[Tensor, ...]
) -> Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None:
    """The graph, tried once; None, and a warning, where torch cannot make it or it gives something else."""
    from torch.fx.experimental.proxy_tensor import make_fx

    embeddings = embeddings.detach()
    expected = gradient_of(evaluate, embeddings, *arguments)
    try:
        with _quiet(), traced_products(), torch.no_grad():
            # Both directions are in the trace, so that torch's own compiler need not follow Python, nor autograd.
            trace = make_fx(lambda *inputs: tuple(gradient_of(evaluate, *inputs)))(embeddings, *arguments)
        with _quiet(), torch.no_grad():
            graph = torch.compile(trace, fullgraph=True, dynamic=False, **_mode(embeddings.device))
            found = Gradient(*_kept(graph, embeddings.device)(embeddings, *arguments))
    except RuntimeError as error:  # of tracing, of torch's compiler, of the compiler that it calls
        if is_out_of_memory(error):
            raise
        _warn(f"torch cannot compile it here ({brief(error)})")
        return None
    if not _alike(found, expected):
        _warn("the compiled pass gives other gradients than the model's own")
        return None
    return _kept(graph, embeddings.device)


def _mode(device: torch.device) -> dict[str, Any]:
    # On a CPU the weights are laid out for the products they are in; on a GPU a step is launched as one CUDA graph.
    return {"options": {"freezing": True}} if device.type == "cpu" else {"mode": "reduce-overhead"}


def _kept(graph: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The graph, whose results outlive its next call: those of a CUDA graph are written over by that."""
    if device.type != "cuda":
        return graph

    def run(*inputs: Tensor) -> tuple[Tensor | None, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return tuple(None if each is None else each.clone() for each in graph(*inputs))

    return run


def _alike(found: Gradient, expected: Gradient) -> bool:
    tolerance = TOLERANCE.get(expected.grad.dtype, HALF_TOLERANCE)
    off = (found.grad.float() - expected.grad.float()).norm() / expected.grad.float().norm().clamp_min(1e-30)
    return bool(off <= tolerance) and torch.allclose(found.loss, expected.loss, atol=tolerance, rtol=tolerance)


def _warn(reason: str) -> None:
    warnings.warn(f"compile=True: {reason}; the search goes on as without it", RuntimeWarning, stacklevel=2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of torch's compiler about itself are nothing that a caller can do anything about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
