"""What people put around networks and into them is recognized by what is there, and is there afterwards."""

import pytest
import torch
from torch import nn

from hardprompts.encoders import several
from hardprompts.errors import BackendError
from hardprompts.towers import (
    check_reachable,
    embedding_modules,
    is_plain,
    is_untouched,
    matrix_dtype,
    uncompiled,
    unwrapped,
    watched_gradients,
)
from hardprompts.towers.networks import replaced_embeddings


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))


def test_wrappers_are_taken_off_one_after_the_other() -> None:
    inner = network()
    assert unwrapped(inner) is inner
    assert unwrapped(torch.compile(nn.DataParallel(inner), backend="eager")) is inner
    assert unwrapped(nn.DataParallel(torch.compile(inner, backend="eager"))) is inner
    engine = type("DeepSpeedEngine", (nn.Module,), {})()
    engine.module = inner
    assert unwrapped(engine) is inner


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_wrappers_that_nothing_can_be_driven_inside_of() -> None:
    with pytest.raises(BackendError, match="TorchScript"):
        unwrapped(torch.jit.script(network()))
    for name in ("FullyShardedDataParallel", "FSDPModule"):
        with pytest.raises(BackendError, match=f"{name}.*without FSDP"):
            unwrapped(type(name, (nn.Module,), {})())


def test_networks_run_as_they_are_written_meanwhile_and_compiled_again_afterwards() -> None:
    runs: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        def run(*args: object) -> object:
            runs.append("compiled")
            return graph.forward(*args)

        return run

    own = network()
    own.compile(backend=backend)
    own[0].forward = torch.compile(own[0].forward, backend=backend)
    kept = own._compiled_call_impl, own[0].forward
    x = torch.randn(1, 4)
    with pytest.raises(KeyError), uncompiled(own):
        expected = own(x)
        assert not runs
        raise KeyError
    assert (own._compiled_call_impl, own[0].forward) == kept
    torch.testing.assert_close(own(x), expected)
    assert runs


class _Scaled(nn.Linear):
    pass


def test_only_what_computes_what_its_class_says_is_plain() -> None:
    kinds = {nn.Sequential, nn.Linear, nn.GELU}
    assert is_plain(network(), kinds)
    changes = {
        "hook": lambda own: own[0].register_forward_hook(lambda m, i, o: o),
        "pre-hook": lambda own: own[2].register_forward_pre_hook(lambda m, i: i),
        "backward hook": lambda own: own[2].register_full_backward_hook(lambda m, i, o: i),
        "forward": lambda own: setattr(own[0], "forward", lambda x: x),
        "subclass": lambda own: setattr(own[0], "__class__", _Scaled),
        "parametrization": lambda own: nn.utils.parametrizations.weight_norm(own[0]),
        "bytes": lambda own: own[0].to(torch.float8_e4m3fn),
        "meta": lambda own: own[0].to("meta"),
        "tensor": lambda own: setattr(own[0], "weight", _Quantized(own[0].weight.detach())),
    }
    for name, change in changes.items():
        own = network()
        change(own)
        assert not is_plain(own, kinds), name
    compiled = network()
    compiled.compile(backend="eager")
    compiled[0].forward = torch.compile(compiled[0].forward, backend="eager")
    assert is_plain(compiled, kinds), "to be compiled changes nothing"
    assert is_untouched(compiled[0])


class _Quantized(nn.Parameter):
    """As torchao's and bitsandbytes' weights: a tensor of a class of its own."""

    def __new__(cls, data: torch.Tensor) -> "_Quantized":
        return torch.Tensor._make_subclass(cls, data, False)  # type: ignore[return-value]


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_the_dtype_of_a_network_is_not_that_of_its_quantized_weights(stored: torch.dtype) -> None:
    own = network().to(torch.bfloat16)
    own[0].weight = nn.Parameter(own[0].weight.detach().to(stored), requires_grad=False)
    assert matrix_dtype(own, torch.float32) == torch.bfloat16
    assert matrix_dtype(own[:1], torch.float32) == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own[0].to("meta"), "not in memory"),
        (lambda own: own[0].to(torch.float8_e5m2), r"stored as float8_e5m2 \(0.weight\)"),
        (lambda own: setattr(own[0], "_hf_hook", type("Hook", (), {"offload": True})()), "layer by layer"),
        (lambda own: setattr(own[0].weight, "ds_id", 1), "over several processes"),
    ],
)
def test_weights_that_are_not_there_for_gradients(change: object, message: str) -> None:
    own = network()
    check_reachable(own, "mine")
    change(own)  # type: ignore[operator]
    with pytest.raises(BackendError, match=f"mine: .*{message}"):
        check_reachable(own, "mine")


def test_a_layer_that_loses_gradients_is_named_though_others_hand_them_on() -> None:
    class Deaf(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.detach()) + 0 * self.bias

    own, x = network(), torch.randn(2, 4, requires_grad=True)
    with watched_gradients(own, "mine"):
        own(x)
    own[2].__class__ = Deaf
    own[2].weight.requires_grad_(True)  # so that its output has some gradient, though not that of its input
    with (
        pytest.raises(BackendError, match=r"mine: no gradient passes through 2 \(.*Deaf\)"),
        watched_gradients(own, "mine"),
    ):
        own(x)
    assert not own[0]._forward_hooks and not own[2]._forward_hooks


def test_embeddings_are_put_in_behind_what_is_around_a_table() -> None:
    class Adapted(nn.Module):
        """As PEFT's around an embedding: it adds to what the table gives."""

        def __init__(self, table: nn.Embedding) -> None:
            super().__init__()
            self.base_layer = table

        @property
        def weight(self) -> torch.Tensor:
            return self.base_layer.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.base_layer(ids) + 1

    own = nn.Sequential(Adapted(nn.Embedding(5, 3)), nn.Identity())
    modules = embedding_modules(own, own[0])
    assert modules == [own[0]]
    given = torch.randn(2, 2, 3)
    with replaced_embeddings(modules, given, 1):
        found = own(torch.zeros(2, 4, dtype=torch.long))
    assert torch.equal(found[:, 1:3], given) and torch.equal(
        found[:, 0], own(torch.zeros(2, 1, dtype=torch.long))[:, 0]
    )


def test_a_network_itself_is_not_a_model_of_a_front_door() -> None:
    assert several("emoji") == ["emoji"] and several(["emoji", "photo"]) == ["emoji", "photo"]
    with pytest.raises(BackendError, match="a Sequential is not a model's name.*from_model.*enable_prompt_inversion"):
        several(network())
    with pytest.raises(BackendError, match="a int is not"):
        several(["emoji", 3])
