"""The simulated device refuses what CUDA refuses, computes what the CPU computes, and counts."""

import copy
from collections.abc import Callable, Iterator

import pytest
import simulated_device
import torch
import torch.nn.functional as F
from simulated_device import SimulatedTensor, counting
from torch import Tensor

pytestmark = pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend")

OTHER = "Expected all tensors to be on the same device"


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with simulated_device.simulated() as device:
        yield device


@pytest.fixture
def x(device: torch.device) -> Tensor:
    return torch.arange(12.0).reshape(3, 4).to(device)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(4),
        lambda x: x @ torch.ones(4, 2),
        lambda x: torch.ones(3, 4).add_(x.sum()),
        lambda x: torch.cat([x, torch.ones(1, 4)]),
        lambda x: torch.where(torch.ones(3, 4, dtype=torch.bool), x, 0.0),
        lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool), 0.0),
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.long)),
        lambda x: x.scatter(1, torch.zeros(3, 1, dtype=torch.long), 1.0),
        lambda x: F.embedding(torch.tensor([0]), x),
        lambda x: F.embedding(torch.tensor(0), x),
        lambda x: F.linear(x, torch.ones(2, 4)),
        lambda x: F.layer_norm(x, (4,), torch.ones(4)),
        lambda x: x.index_put((torch.tensor([0]),), torch.ones(1, 4)),
        lambda x: torch.ones(3)[torch.zeros(1, dtype=torch.long, device=x.device)],
    ],
)
def test_two_devices_are_not_mixed(mix: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with pytest.raises(RuntimeError, match=OTHER):
        mix(x)


def test_numbers_of_the_cpu_and_cpu_indices_go_where_cuda_takes_them(x: Tensor) -> None:
    assert (x + torch.ones(())).tolist() == (x.cpu() + 1).tolist()
    assert torch.where(x > 3, x, torch.zeros(())).tolist() == torch.where(x.cpu() > 3, x.cpu(), 0.0).tolist()
    with counting() as counts:
        assert x[torch.tensor([0, 2])].shape == (2, 4)
        assert x[[0, 2]].shape == (2, 4)
    assert (counts.transfers, counts.waits, counts.bytes_moved) == (2, 2, 32)


@pytest.mark.parametrize(
    "draw",
    [
        lambda device, generator: torch.rand(3, device=device, generator=generator),
        lambda device, generator: torch.randperm(3, device=device, generator=generator),
        lambda device, generator: torch.zeros(3, device=device).normal_(generator=generator),
        lambda device, generator: torch.ones(3, device=device).multinomial(2, generator=generator),
    ],
)
def test_generators_are_of_the_device(
    draw: Callable[[torch.device, torch.Generator], Tensor], device: torch.device
) -> None:
    with pytest.raises(RuntimeError, match="device type for generator but found 'cpu'"):
        draw(device, torch.Generator())
    one, other = (draw(device, torch.Generator(device).manual_seed(5)) for _ in range(2))
    assert isinstance(one, SimulatedTensor)
    assert one.tolist() == other.tolist()


def test_numpy_is_refused(x: Tensor) -> None:
    import numpy as np

    for convert in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
            convert()
    assert x.cpu().numpy().sum() == 66


def test_what_is_computed_is_what_the_cpu_computes(device: torch.device) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    given = torch.randn(2, 5, 8)

    def gradient(layer: torch.nn.Module, given: Tensor) -> Tensor:
        leaf = given.clone().requires_grad_()
        return torch.autograd.grad(layer(leaf).square().sum(), leaf)[0]

    expected = gradient(layer, given)
    moved = copy.deepcopy(layer).to(device)
    assert all(isinstance(weight, SimulatedTensor) for weight in moved.parameters())
    assert torch.allclose(gradient(moved, given.to(device)).cpu(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_one_kernel_forward_and_one_back(masked: bool, dtype: torch.dtype, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 5, 8, generator=draw).to(dtype) for _ in range(3)]
    mask = torch.randn(5, 5, generator=draw).to(dtype) if masked else None

    def gradients(where: str) -> list[Tensor]:
        leaves = [part.to(where).requires_grad_() for part in parts]
        own = None if mask is None else mask.to(where)
        return list(torch.autograd.grad(F.scaled_dot_product_attention(*leaves, attn_mask=own).sum(), leaves))

    expected = gradients("cpu")
    with counting() as counts:
        found = gradients(device.type)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert all(torch.allclose(a.cpu(), b, atol=tolerance) for a, b in zip(found, expected, strict=True))
    fused = {name: count for name, count in counts.operations.items() if "attention" in name}
    assert list(fused.values()) == [1, 1]


def test_shared_weights_stay_shared(device: torch.device) -> None:
    pair = torch.nn.ModuleList([torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3, bias=False)])
    pair[1].weight = pair[0].weight
    pair.to(device)
    assert pair[0].weight is pair[1].weight
    assert pair[0].weight.device.type == device.type


def test_launches_and_views_are_counted_apart(x: Tensor) -> None:
    with counting() as counts:
        y = x.T.reshape(-1)[2:].unsqueeze(0)  # a transposed matrix is copied to one row
        y.mul_(2)
        torch.empty(3, device=x.device)
        torch.arange(3, device=x.device)
    assert counts.operations == {"aten.clone.default": 1, "aten.mul_.Tensor": 1, "aten.arange.default": 1}
    assert counts.launches == 3
    assert counts.views == 3
    assert counts.waits == counts.transfers == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: f"{x.sum():.2f}",
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x[x > 3],
        lambda x: x.masked_select(x > 3),
        lambda x: x.index_put_((x > 3,), torch.ones((), device=x.device)),
        lambda x: torch.equal(x, x.clone()),
        lambda x: torch.allclose(x, x),
        lambda x: x[:, 0].repeat_interleave(x[:, 1].long()),
        lambda x: torch.linalg.solve(torch.eye(3, device=x.device), x),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.ones(3).copy_(x[:, 0]),
    ],
)
def test_the_host_waits_once(wait: Callable[[Tensor], object], x: Tensor) -> None:
    with counting() as counts:
        wait(x)
    assert counts.waits == 1, counts.waited
    assert "test_simulated_device.py" in counts.waited[0]


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x[:, 1:] @ x[:, 1:].T,
        lambda x: x.index_put_((x > 3,), torch.zeros(())),
        lambda x: x.masked_fill_(x > 3, 0.0),
        lambda x: x.topk(2),
        lambda x: x.repeat_interleave(2, dim=0),
        lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x.to(torch.bfloat16),
    ],
)
def test_the_host_goes_on(work: Callable[[Tensor], object], x: Tensor) -> None:
    with counting() as counts:
        work(x)
    assert counts.waits == 0, counts.waited


def test_transfers_are_counted_in_bytes(device: torch.device) -> None:
    with counting() as counts:
        moved = torch.ones(10).to(device)
        assert (counts.transfers, counts.bytes_moved) == (1, 40)
        moved.half().cpu()
        assert (counts.transfers, counts.bytes_moved) == (2, 60)
        moved.clone()
        assert (counts.transfers, counts.bytes_moved) == (2, 60)


def test_memory_is_counted_once_for_each_storage_until_it_is_given_back(device: torch.device) -> None:
    before = torch.ones(1000, device=device)
    with counting() as counts:
        big = torch.empty(1000, 10, device=device)
        part = big[:, 0]
        before.view(10, 100)  # is no new memory
        assert counts.alive == 40_000
        other = big.clone()
        assert (counts.alive, counts.peak) == (80_000, 80_000)
        del big, other
        assert (counts.alive, counts.peak) == (40_000, 80_000)  # what is a part of it keeps all of it
        del part
        assert counts.alive == 0


def test_the_device_is_there_only_while_it_is_on(device: torch.device) -> None:
    assert torch.accelerator.is_available() or torch.get_device_module(device.type).is_available()
    assert isinstance(torch.Generator(), torch.Generator)
