"""The graph's own networks without ComfyUI: gradients through layers like its, chunks of tokens, and what is refused."""

import dataclasses
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_denoiser

sys.path.insert(0, str(Path(__file__).parent))
from fakes import World, comfyui

from hardprompts import BackendError, PromptDistiller
from hardprompts.diffusion import conditioning_encoder
from hardprompts.encoders import ConditioningEncoder, NoisePredictor
from hardprompts.testing import toy_backend

VOCABULARY = toy_backend().vocabulary


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with comfyui(tmp_path) as found:
        yield found


def module(name: str) -> Any:
    return importlib.import_module(f"comfyui_nodes.{name}")


class Layer(torch.nn.Module):
    """A residual layer that adds in place, as ComfyUI's CLIP layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += self.linear(self.norm(x))
        return x


def test_layers_that_add_in_place_can_be_differentiated(world: World) -> None:
    torch.manual_seed(0)
    layer, start = Layer(), torch.randn(2, 4, dtype=torch.float64)
    layer.double()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return layer(x * 1.0).square().sum()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss(start.clone().requires_grad_()).backward()

    def kept(x: torch.Tensor) -> torch.Tensor:
        with module("bridge").kept_inputs(layer):
            return loss(x)

    assert torch.autograd.gradcheck(kept, (start.clone().requires_grad_(),))
    with module("bridge").kept_inputs(layer):
        inside = loss(start.clone())
    assert torch.equal(inside, loss(start.clone()))
    assert not layer.norm._forward_pre_hooks


def test_weights_of_inference_mode_can_be_differentiated_through_once_they_are_private(world: World) -> None:
    bridge = module("bridge")
    with torch.inference_mode():
        weight = torch.randn(3, 4)
        with bridge.gradients():
            assert not torch.is_inference_mode_enabled()
            x = torch.randn(2, 4, requires_grad=True)
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
                torch.nn.functional.linear(x, weight).sum().backward()
            torch.nn.functional.linear(x, bridge.private(weight)).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, weight.sum(0).expand(2, 4))


def test_newer_versions_are_told_of_training_and_told_again_when_it_ends(world: World) -> None:
    management = sys.modules["comfy.model_management"]
    management.in_training = False  # type: ignore[attr-defined]
    seen = []
    with pytest.raises(KeyError), module("bridge").gradients_through_graph():
        seen.append(management.in_training)  # type: ignore[attr-defined]
        raise KeyError
    assert seen == [True] and management.in_training is False  # type: ignore[attr-defined]


class FakePatcher:
    """Remembers the wrappers that it is given."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.wrappers = model, []
        self.load_device = torch.device("cpu")

    def add_weight_wrapper(self, name: str, function: Any) -> None:
        self.wrappers.append((name, function))


def test_every_weight_of_a_layer_that_takes_wrappers_gets_one(world: World) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2))
    for part in model[:2]:
        part.weight_function = []
    patcher = module("graph").wrapped(FakePatcher(model), "MODEL")
    assert [name for name, _ in patcher.wrappers] == ["0.weight", "0.bias", "1.weight"]
    given = torch.ones(2, requires_grad=True)
    copy = patcher.wrappers[0][1](given)
    assert torch.equal(copy, given) and not copy.requires_grad and copy.data_ptr() != given.data_ptr()


class DynamicPatcher(FakePatcher):
    """Of a newer ComfyUI, on a GPU: its weights come and go."""

    cached_patcher_init: Any = ("read the file", ())

    def is_dynamic(self) -> bool:
        return True

    def clone(self, disable_dynamic: bool = False) -> Any:
        assert disable_dynamic and torch.is_inference_mode_enabled()
        return FakePatcher(torch.nn.Linear(2, 2))


def test_weights_that_come_and_go_are_read_once_more_in_full(world: World) -> None:
    whole = module("graph").whole
    dynamic = DynamicPatcher(torch.nn.Linear(2, 2))
    found = whole(dynamic, "MODEL")
    assert type(found) is FakePatcher and found.model is not dynamic.model
    dynamic.cached_patcher_init = None
    with pytest.raises(BackendError, match="MODEL.*piece by piece.*--disable-dynamic-vram"):
        whole(dynamic, "MODEL")


def test_quantised_weights_are_refused_with_the_alternative(world: World) -> None:
    model = torch.nn.Linear(2, 2)
    model.weight = torch.nn.Parameter(model.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(BackendError, match="float8_e4m3fn.*float16.*prompt model"):
        module("graph").wrapped(FakePatcher(model), "MODEL")


def test_a_text_encoder_that_is_no_clip_is_refused_with_the_alternative(world: World) -> None:
    stage = torch.nn.Module()
    stage.t5xxl = torch.nn.Module()
    with pytest.raises(BackendError, match="Stable Diffusion 1.x.*prompt model"):
        module("graph").graph_text_encoder(types.SimpleNamespace(cond_stage_model=stage))


def test_sizes_that_the_vae_cannot_take_are_refused(world: World) -> None:
    vae = types.SimpleNamespace(downscale_ratio=8)
    with pytest.raises(ValueError, match="multiples of 8.*100"):
        module("graph").graph_predictor(None, None, vae, 100, 64)


def test_a_chunk_has_the_embeddings_behind_the_start_token_and_the_length_of_the_context(world: World) -> None:
    frame = {"l": [[(1, 1.0), (2, 1.0), *[(3, 1.0)] * 5]], "g": [[(1, 1.0), (2, 1.0), *[(0, 1.0)] * 5]]}
    clip = types.SimpleNamespace(tokenize=lambda text: frame)
    vocabulary = types.SimpleNamespace(widths=(4, 6))
    encoder = module("graph").GraphTextEncoder(clip, ("l", "g"), vocabulary)
    assert encoder.max_tokens == 5
    row = torch.randn(2, 10)
    chunk = encoder._chunk(row)
    for key, part, padding in (("l", row[:, :4], 3), ("g", row[:, 4:], 0)):
        tokens = [token for token, _ in chunk[key]]
        assert len(tokens) == 7 and tokens[0] == 1 and tokens[3:] == [2, *[padding] * 3]
        assert torch.equal(torch.stack(tokens[1:3]), part)
    empty = encoder._chunk(torch.zeros(0, 10))
    assert empty["l"] == frame["l"][0]


def test_the_graphs_text_encoder_is_one_of_a_denoiser_and_not_a_denoiser(world: World) -> None:
    frame = {"l": [[(1, 1.0), (2, 1.0), *[(3, 1.0)] * 5]]}
    clip = types.SimpleNamespace(tokenize=lambda text: frame, cond_stage_model=torch.nn.Module())
    encoder = module("graph").GraphTextEncoder(clip, ("l",), VOCABULARY)
    assert isinstance(encoder, ConditioningEncoder) and not isinstance(encoder, NoisePredictor)
    backend = PromptDistiller(encoder).backend
    assert backend.noise_predictor is None and conditioning_encoder(backend) is encoder


def test_a_clip_that_reads_a_text_differently_from_its_tokens_is_noticed_at_opening(world: World) -> None:
    encoder = toy_denoiser.predictor("epsilon", torch.float32)
    assert module("graph").checked(encoder) is encoder
    own = encoder.condition_text

    def louder(text: str) -> Any:
        told = own(text)
        return dataclasses.replace(told, tensors=tuple(2 * tensor for tensor in told.tensors))

    encoder.condition_text = louder
    with pytest.raises(BackendError, match="differently from its tokens"):
        module("graph").checked(encoder)


def test_clip_l_stands_before_big_g(world: World) -> None:
    assert sorted(["clip_g", "clip_l"], key=module("graph")._place) == ["clip_l", "clip_g"]
    assert sorted(["g", "l"], key=module("graph")._place) == ["l", "g"]
