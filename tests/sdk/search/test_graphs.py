"""Gradients as compiled graphs: the same prompts, one graph a shape, and the model's own passes where there is none."""

import gc
from typing import Any

import pytest
import torch

from hardprompts import run_search
from hardprompts.methods import GCG, PEZ
from hardprompts.objectives import Evaluation, FeatureSimilarity
from hardprompts.search import graphs
from hardprompts.testing import toy_backend
from hardprompts.towers import frozen

STEPS = graphs.MET_OFTEN + 14


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that are traced, which run as traced: what a C++ compiler makes of them is torch's own matter."""
    found: list[torch.fx.GraphModule] = []

    def aot(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(graph)
        return graph

    monkeypatch.setattr(graphs, "_mode", lambda device: {"backend": aot})
    return found


def similarity(backend: Any, texts: list[str], **options: Any) -> FeatureSimilarity:
    targets = backend.encode_texts(texts)
    return FeatureSimilarity(
        backend.text_encoder, targets[None], torch.full((1, len(texts)), 1 / len(texts)), **options
    )


def searched(backend: Any, search: Any = PEZ(), texts: tuple[str, ...] = ("red house",), **options: Any) -> list[Any]:
    objective = similarity(backend, list(texts))
    starts = backend.vocabulary.sample((options.pop("rows", 4), 3), torch.Generator().manual_seed(0))
    seen: list[Any] = []
    run_search(
        search, objective, objective, backend.vocabulary, starts, seed=0,
        **{"max_steps": STEPS, "callback": lambda progress: seen.append(progress.best[0]), **options},
    )  # fmt: skip
    return [(one.token_ids, round(one.score, 5)) for one in seen if one is not None]


@pytest.mark.parametrize("search", [PEZ(), GCG(search_width=8)], ids=lambda search: type(search).__name__)
def test_a_compiled_search_finds_the_same(search: Any, traces: list[torch.fx.GraphModule]) -> None:
    backend = toy_backend()
    assert searched(backend, search, compile=True) == searched(backend, search)
    assert len(traces) == 1


def test_the_embedded_model_finds_the_same(traces: list[torch.fx.GraphModule]) -> None:
    from hardprompts import load_backend

    backend = load_backend("emoji")
    options = {"texts": ("a red fox at night", "a boat in snow"), "rows": 2, "max_steps": 2 * STEPS}
    assert searched(backend, compile=True, **options) == searched(backend, **options)
    assert len(traces) == 1


def test_a_graph_is_kept_for_the_next_target_and_for_each_shape(traces: list[torch.fx.GraphModule]) -> None:
    backend = toy_backend()
    searched(backend, compile=True)
    assert searched(backend, texts=("blue boat",), compile=True) == searched(backend, texts=("blue boat",))
    assert len(traces) == 1
    searched(backend, rows=5, compile=True)
    assert len(traces) == 2


def test_a_shape_that_comes_seldom_is_not_compiled(traces: list[torch.fx.GraphModule]) -> None:
    searched(toy_backend(), compile=True, max_steps=graphs.MET_OFTEN)
    assert not traces


def test_nothing_is_compiled_shortly_before_a_deadline(traces: list[torch.fx.GraphModule]) -> None:
    searched(toy_backend(), compile=True, deadline=graphs.COMPILE_SECONDS - 1)
    assert not traces


def test_draws_of_a_stochastic_loss_are_not_frozen_into_the_graph(traces: list[torch.fx.GraphModule]) -> None:
    backend = toy_backend()
    embeddings = backend.vocabulary.embed(backend.vocabulary.sample((2, 3), torch.Generator().manual_seed(0)))
    losses = []
    for compile in (False, True):
        objective = similarity(
            backend, ["red house", "old boat", "cat dog"], sample_size=1, generator=torch.Generator().manual_seed(1)
        )
        call = graphs.compiled_gradient if compile else lambda o, e, g, _: graphs.gradient_of(o, e, g)
        groups = torch.zeros(2, dtype=torch.long)
        losses.append([call(objective, embeddings, groups, None).loss for _ in range(STEPS)])
    assert torch.allclose(torch.stack(losses[0])[:, 0], torch.stack(losses[1])[:, 0], atol=1e-5)
    assert len({round(float(each[0]), 4) for each in losses[1][graphs.MET_OFTEN :]}) > 1
    assert len(traces) == 1


def test_without_a_compiler_one_line_and_the_same_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(graphs, "_mode", lambda device: {"backend": no_compiler})
    backend = toy_backend()
    with pytest.warns(RuntimeWarning, match="compile=True: torch cannot compile it here .*No working C"):
        found = searched(backend, compile=True)
    assert found == searched(backend)
    assert searched(backend, compile=True) == found  # not tried, and not warned of, again


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_large_matrices_keep_their_layout_within_a_graph(
    monkeypatch: pytest.MonkeyPatch, traces: list[torch.fx.GraphModule]
) -> None:
    from hardprompts import load_backend

    options = {"texts": ("a red fox at night",), "rows": 2}
    backend = load_backend("emoji")
    expected = searched(backend, **options)
    assert searched(backend, compile=True, **options) == expected
    monkeypatch.setattr(frozen, "CALLED_LEAST", 0)
    assert searched(load_backend("emoji"), compile=True, **options) == expected
    plain, called = (sum("packed_product" in str(node.target) for node in trace.graph.nodes) for trace in traces)
    assert plain == 0 and called > 2 * 4


def test_a_graph_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        return lambda *args: [None if each is None else 2 * each for each in graph(*args)]

    monkeypatch.setattr(graphs, "_mode", lambda device: {"backend": wrong})
    with pytest.warns(RuntimeWarning, match="other gradients"):
        assert searched(toy_backend(), compile=True) == searched(toy_backend())


def test_memory_that_runs_out_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        if any(each.ndim == 3 and len(each) > 2 for each in inputs):
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return graph

    monkeypatch.setattr(graphs, "_mode", lambda device: {"backend": large})
    backend = toy_backend()
    with pytest.warns(RuntimeWarning, match="out of memory with 4 prompts at once"):
        assert searched(backend, compile=True) == searched(backend)


def test_an_objective_that_is_not_one_function_is_searched_as_ever() -> None:
    backend = toy_backend()
    inner = similarity(backend, ["red house"])

    class Other:
        def __call__(self, embeddings: torch.Tensor, groups: torch.Tensor) -> Evaluation:
            return inner(embeddings, groups)

    starts = backend.vocabulary.sample((2, 3), torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="compile=True does nothing here: a Other"):
        run_search(PEZ(), Other(), inner, backend.vocabulary, starts, seed=0, max_steps=2, compile=True)


def test_graphs_are_gone_with_their_model(traces: list[torch.fx.GraphModule]) -> None:
    backend = toy_backend()
    searched(backend, compile=True)
    encoder, before = backend.text_encoder, len(graphs._OF_MODELS)
    assert encoder in graphs._OF_MODELS
    del backend, encoder
    gc.collect()
    assert len(graphs._OF_MODELS) < before


@pytest.mark.slow
def test_what_torch_compiles_finds_the_same_for_200_steps() -> None:
    from hardprompts import load_backend

    backend = load_backend("emoji")
    options = {"texts": ("a red fox at night",), "rows": 1, "max_steps": 200}
    assert searched(backend, compile=True, **options) == searched(backend, **options)
    assert all(graph is not None for graph in graphs._OF_MODELS[backend.text_encoder].compiled.values())
