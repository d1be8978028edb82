"""With a model in half precision, what is added up over many steps stays in float32."""

from typing import Any

import pytest
import torch

from hardprompts import Backend, PromptInverter, load_backend, search_methods
from hardprompts.methods import optimizers
from hardprompts.search.bound import BoundObjective


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return load_backend("emoji", device="cpu", dtype=request.param)


@pytest.mark.parametrize("method", search_methods())
def test_losses_and_optimizers_are_in_float32(method: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []
    evaluate, prepare, fused = (
        BoundObjective.value_and_grad,
        torch.optim.Optimizer.__init__,
        optimizers.functional.adamw,
    )

    def evaluated(self: BoundObjective, *given: Any) -> Any:
        evaluation, grad = evaluate(self, *given)
        assert grad.isfinite().all()
        losses.append(evaluation.loss)
        return evaluation, grad

    def prepared(self: torch.optim.Optimizer, params: Any, defaults: Any) -> None:
        given = list(params)
        moved.extend(given)
        prepare(self, given, defaults)

    def stepped(params: Any, grads: Any, means: Any, squares: Any, *rest: Any, **options: Any) -> None:
        moved.extend((*params, *grads, *means, *squares))
        fused(params, grads, means, squares, *rest, **options)

    monkeypatch.setattr(BoundObjective, "value_and_grad", evaluated)
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", prepared)
    monkeypatch.setattr(optimizers.functional, "adamw", stepped)
    target = backend.encode_texts(["a red fox at night"])
    prompt = PromptInverter(backend, method=method).invert(
        target, num_tokens=3, max_steps=4, restarts=2, seed=0, progress=False
    )
    assert {tensor.dtype for tensor in (*losses, *moved)} <= {torch.float32}
    assert -1 <= prompt.score <= 1
    if method in ("pez", "soft", "gbda", "ph2p"):
        assert losses and moved, "nothing was watched"
